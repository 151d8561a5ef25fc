-- hold_v1: what settle_v1, extend_v1, release_v1 and abandon_v1 share; put in front of each of them.
--
-- A hold is {'held', number of wallets, reply of reserve, keys, counters, context} and, when it was extended,
-- {.., granted per wallet, owed so far per wallet, rest of the event should it be abandoned}; once it has ended
-- it is {'settled' | 'released' | 'abandoned', number of wallets, reply of reserve, list of available, id of the event
-- when it was settled}, kept for a while to answer repeats.
--
-- KEYS  1 hold, 2 deadlines, 3 events, then the hold's wallets, then its limit hashes

local LARGEST = 9007199254740991

-- The value under KEYS[1], or nil; a live hold must name the very keys that this call was given.
local function find_hold()
  local value = redis.call('GET', KEYS[1])
  local hold = value and cmsgpack.unpack(value)
  if hold and hold[1] == 'held' then
    local keys = hold[4]
    assert(#keys == #KEYS - 3, 'the handle does not fit the hold')
    for i = 1, #keys do
      assert(keys[i] == KEYS[3 + i], 'the handle does not fit the hold')
    end
  end
  return hold
end

-- What is held on the wallet of this number.
local function granted_on(hold, i)
  return hold[7] and hold[7][i] or hold[3][1 + i]
end

-- Free the hold on each wallet and take the amount. Gives what is available on each afterwards.
local function move_money(hold, amounts)
  local after, held = {}, {}
  for i = 1, hold[2] do
    local row = redis.call('HMGET', KEYS[3 + i], 'a', 'h')
    if row[1] then
      local granted = granted_on(hold, i)
      after[i] = row[1] + granted - amounts[i]
      held[i] = row[2] - granted
      assert(after[i] >= -LARGEST and after[i] <= LARGEST, 'available out of range')
    else
      after[i] = 0  -- the wallet is gone: it will be opened from the ledger, which gets the event
    end
  end
  for i = 1, hold[2] do
    if held[i] then
      redis.call('HSET', KEYS[3 + i], 'a', after[i], 'h', held[i])
    end
  end
  return after
end

-- What a counter can hold: over-runs must not carry it out of the numbers that are exact.
local function within(number)
  return math.min(LARGEST, math.max(0, number))
end

-- Correct one limit field by `delta` in the window that reserve counted in; nil when that is over.
local function corrected(kind, value, window, delta)
  if kind == 'rpm' or kind == 'tpm' then
    local seen, current, previous = string.match(value, '^(%d+):(%d+):(%d+)$')
    seen = tonumber(seen)
    if seen == window then
      return string.format('%s:%.0f:%s', seen, within(current + delta), previous)
    elseif seen == window + 1 then
      return string.format('%s:%s:%.0f', seen, current, within(previous + delta))
    end
  elseif window > 0 then
    local seen, spent = string.match(value, '^(%d+):(%d+)$')
    if tonumber(seen) == window then
      return string.format('%s:%.0f', seen, within(spent + delta))
    end
  else
    return within(value + delta)
  end
end

-- Correct every counter of the hold: one read and one write a limit hash. `served` is false when the
-- request did not run: then the request itself is given back too. `tokens` nil: nobody knows, so what was
-- counted stays. Fields that expired stay away.
local function correct_counters(hold, amounts, tokens, served)
  local counters = hold[5]
  local at = 1
  while counters[at] do
    local hash = counters[at]
    local fields, windows, deltas = {}, {}, {}
    while counters[at] == hash do
      local kind, amount, charge = counters[at + 1], counters[at + 3], counters[at + 4]
      local delta = -amount
      if kind == 'rpm' then
        delta = served and 0 or -amount
      elseif kind == 'tpm' then
        delta = tokens and tokens - amount or 0
      elseif kind ~= 'concurrency' then
        delta = (amounts[charge] or 0) - amount
      end
      if delta ~= 0 then
        fields[#fields + 1], windows[#windows + 1], deltas[#deltas + 1] = kind, counters[at + 2], delta
      end
      at = at + 5
    end
    if #fields > 0 then
      local key = KEYS[3 + hold[2] + hash]
      local row = redis.call('HMGET', key, unpack(fields))
      local write = {}
      for i = 1, #fields do
        local text = row[i] and corrected(fields[i], row[i], windows[i], deltas[i])
        if text then
          write[#write + 1] = fields[i]
          write[#write + 1] = text
        end
      end
      if #write > 0 then
        redis.call('HSET', key, unpack(write))
      end
    end
  end
end

-- Two JSON objects, neither of them empty, and what stands between, as one.
local function joined(front, between, rest)
  return string.sub(front, 1, -2) .. ',' .. between .. string.sub(rest, 2)
end

-- Replace the hold by its result, which answers repeats for `ttl` ms.
local function end_hold(word, hold, after, ttl, id)
  redis.call('SET', KEYS[1], cmsgpack.pack({word, hold[2], hold[3], after, id}), 'PX', ttl)
  redis.call('ZREM', KEYS[2], KEYS[1])
end
