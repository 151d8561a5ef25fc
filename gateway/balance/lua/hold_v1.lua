-- hold_v1: what settle_v1, extend_v1, release_v1 and abandon_v1 share; put in front of each of them.
--
-- A hold is a record, as short to read as Lua here allows: tables and texts of numbers cost it the most. In order:
--   B B B      1 held, 2 settled, 3 released, 4 abandoned; number of wallets; number of counters
--   i8 ..      the reply of reserve: granted and available per wallet, remaining per counter
-- while it is held
--   I4 I2 I4   bytes of the keys, the counters and the context
--   i8 ..      granted per wallet, then owed so far per wallet
--   text       KEYS from the fourth on, with a \0 between them
--   Bsi8i8B .. a counter: number of its limit hash, kind, window, amount, number of its charge
--   text       context: the front of the usage event
--   text       the rest of the event should it be abandoned; empty until extend_v1 noted one
-- and once it has ended, kept for a while to answer repeats
--   i8 ..      available per wallet
--   text       id of the event, when it was settled
--
-- Numbers are doubles here, exact below 2^53. Into a text they go by '%d': what Redis and Lua do by themselves
-- takes three times as long, or writes 1e+15. Tables are made as large as they usually get, as growing them is slow, and
-- every text that is made is hashed byte by byte: the context is touched only where it is needed.
--
-- KEYS  1 hold, 2 deadlines, 3 events, then the hold's wallets, then its limit hashes

local LARGEST = 9007199254740991
local HELD, SETTLED, RELEASED, ABANDONED = 1, 2, 3, 4
local COUNTER = 'Bsi8i8B'
local call, pack, parse = redis.call, struct.pack, struct.unpack
local format, match, rep, sub = string.format, string.match, string.rep, string.sub

-- The hold under KEYS[1]; `state` 0: nothing is known. A live hold must name the very keys that this call was given.
local value = call('GET', KEYS[1])
local state, wallets, limits, ends_at = 0, 0, 0, 0  -- ends_at: where the reply of reserve has ended
local amounts, counters, keys, behind, of_context  -- `amounts`: granted per wallet, then owed; `behind`: where the context is
if value then
  state, wallets, limits, ends_at = parse('<BBB', value)
  ends_at = ends_at + 8 * (2 * wallets + limits)
end
if state == HELD then
  local of_keys, of_counters, at
  of_keys, of_counters, of_context, at = parse('<I4I2I4', value, ends_at)
  amounts = {parse('<' .. rep('i8', 2 * wallets), value, at)}
  at = at + 16 * wallets
  keys = sub(value, at, at + of_keys - 1)
  assert(keys == table.concat(KEYS, '\0', 4), 'the handle does not fit the hold')
  at = at + of_keys
  counters = limits > 0 and {parse('<' .. rep(COUNTER, limits), value, at)} or {}
  behind = at + of_counters
end

-- Free the hold on each wallet and take what is paid. Gives what is available on each afterwards.
local function move_money(paid)
  local after, held = {0, 0}, {false, false}
  for i = 1, wallets do
    local row = call('HMGET', KEYS[3 + i], 'a', 'h')
    if row[1] then
      after[i] = row[1] + amounts[i] - paid[i]
      held[i] = row[2] - amounts[i]
      assert(after[i] >= -LARGEST and after[i] <= LARGEST, 'available out of range')
    else
      after[i] = 0  -- the wallet is gone: it will be opened from the ledger, which gets the event
    end
  end
  for i = 1, wallets do
    if held[i] then
      call('HSET', KEYS[3 + i], 'a', format('%d', after[i]), 'h', format('%d', held[i]))
    end
  end
  return after
end

-- What a counter can hold: over-runs must not carry it out of the numbers that are exact.
local function within(number)
  return math.min(LARGEST, math.max(0, number))
end

-- Correct one limit field by `delta` in the window that reserve counted in; nil when that is over.
local function corrected(kind, text, window, delta)
  if kind == 'rpm' or kind == 'tpm' then
    local seen, current, previous = parse('<i8i8i8', text)
    if seen == window then
      return pack('<i8i8i8', seen, within(current + delta), previous)
    elseif seen == window + 1 then
      return pack('<i8i8i8', seen, current, within(previous + delta))
    end
  elseif window > 0 then
    local seen, spent = match(text, '^(%d+):(%d+)$')
    if tonumber(seen) == window then
      return format('%d:%d', seen, within(spent + delta))
    end
  else
    return format('%d', within(text + delta))
  end
end

-- Correct every counter of the hold: one read and one write a limit hash. `served` is false when the
-- request did not run: then the request itself is given back too. `tokens` nil: nobody knows, so what was
-- counted stays. Fields that expired stay away.
local function correct_counters(paid, tokens, served)
  local at, last = 1, 5 * limits
  while at < last do
    local hash = counters[at]
    local fields, windows, deltas, count = {0, 0, 0}, {0, 0, 0}, {0, 0, 0}, 0
    while at < last and counters[at] == hash do
      local kind, amount = counters[at + 1], counters[at + 3]
      local delta = -amount
      if kind == 'rpm' then
        delta = served and 0 or -amount
      elseif kind == 'tpm' then
        delta = tokens and tokens - amount or 0
      elseif kind ~= 'concurrency' then
        delta = (paid[counters[at + 4]] or 0) - amount
      end
      if delta ~= 0 then
        count = count + 1
        fields[count], windows[count], deltas[count] = kind, counters[at + 2], delta
      end
      at = at + 5
    end
    if count > 0 then
      local key = KEYS[3 + wallets + hash]
      local row = call('HMGET', key, unpack(fields, 1, count))
      local write, written = {0, 0, 0, 0, 0, 0}, 0
      for i = 1, count do
        local text = row[i] and corrected(fields[i], row[i], windows[i], deltas[i])
        if text then
          write[written + 1], write[written + 2] = fields[i], text
          written = written + 2
        end
      end
      if written > 0 then
        call('HSET', key, unpack(write, 1, written))
      end
    end
  end
end

-- The context of the hold, what stands between, and the rest, as one JSON object; neither part is empty.
local function event_of(between, rest)
  return sub(value, behind, behind + of_context - 2) .. ',' .. between .. sub(rest, 2)
end

-- Whole numbers as the record has them.
local function packed(numbers, count)
  return pack('<' .. rep('i8', count), unpack(numbers, 1, count))
end

-- Replace the hold by its result, which answers repeats for `ttl` ms.
local function end_hold(word, result, ttl)
  call('SET', KEYS[1], string.char(word) .. sub(value, 2, ends_at - 1) .. result, 'PX', ttl)
  call('ZREM', KEYS[2], KEYS[1])
end
