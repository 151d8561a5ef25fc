-- extend_v1: enlarge a hold as far as wallets and spend limits go, put its deadline off, and note what is owed so far.
--
-- KEYS  as in hold_v1
-- ARGV  1 a msgpack list: time to live from now on in ms, list of the whole hold that is wanted per wallet, list of
--         what is owed so far per wallet (empty: as before), the limits as reserve_v1 takes them, tokens used so far
--       2 the rest of the usage event, should the hold be abandoned (empty: as before)
-- Reply {1, granted in all.., available..}   the hold stands; nothing is ever given back here
--       {0}                                  it has ended
--       {2}                                  nothing is known of it

local hold = find_hold()
if not hold or hold[1] ~= 'held' then
  return {hold and 0 or 2}
end
local asked = cmsgpack.unpack(ARGV[1])
local ttl, wanted, owed, limits = asked[1], asked[2], asked[3], asked[4]
local wallets, counters = hold[2], hold[5]
local granted, available, held, more = {}, {}, {}, {}
local grows = false
for i = 1, wallets do
  granted[i] = granted_on(hold, i)
  local row = redis.call('HMGET', KEYS[3 + i], 'a', 'h')
  available[i], held[i] = tonumber(row[1] or 0), tonumber(row[2] or 0)
  more[i] = math.max(0, math.min(wanted[i] - granted[i], available[i]))
  grows = grows or more[i] > 0
end

-- A spend limit lowers what is added, as it lowers a grant; one whose window is over has nothing to say.
local function spent(at)
  local kind, window, charge = counters[at + 1], counters[at + 2], counters[at + 4]
  if string.sub(kind, 1, 6) ~= 'spend_' or (more[charge] or 0) == 0 then
    return nil
  end
  local value = redis.call('HGET', KEYS[3 + wallets + counters[at]], kind)
  if value and window > 0 then
    local seen, used = string.match(value, '^(%d+):(%d+)$')
    return tonumber(seen) == window and tonumber(used) or nil, value
  end
  return value and tonumber(value), value
end

if grows then
  for at = 1, #counters, 5 do
    local used = spent(at)
    if used then
      local charge = counters[at + 4]
      more[charge] = math.max(0, math.min(more[charge], limits[at + 2] - used))
    end
  end
  for at = 1, #counters, 5 do
    local used, value = spent(at)
    if used then
      local kind, added = counters[at + 1], more[counters[at + 4]]
      redis.call('HSET', KEYS[3 + wallets + counters[at]], kind, corrected(kind, value, counters[at + 2], added))
      counters[at + 3] = counters[at + 3] + added
    end
  end
  for i = 1, wallets do
    if more[i] > 0 then
      granted[i], available[i], held[i] = granted[i] + more[i], available[i] - more[i], held[i] + more[i]
      assert(held[i] <= LARGEST, 'held out of range')
      redis.call('HSET', KEYS[3 + i], 'a', available[i], 'h', held[i])
    end
  end
end

-- A limit of tokens counts what was used by now in the minute that reserve counted in, as the settlement will.
for at = 1, #counters, 5 do
  local more_tokens = asked[5] - counters[at + 3]
  if counters[at + 1] == 'tpm' and more_tokens > 0 then
    local key = KEYS[3 + wallets + counters[at]]
    local value = redis.call('HGET', key, 'tpm')
    local text = value and corrected('tpm', value, counters[at + 2], more_tokens)
    if text then
      redis.call('HSET', key, 'tpm', text)
      counters[at + 3] = asked[5]
    end
  end
end

if #owed == 0 then
  owed = hold[8] or owed
end
local event = ARGV[2]
if event == '' then
  event = hold[9] or event
end
redis.call('SET', KEYS[1], cmsgpack.pack({'held', wallets, hold[3], hold[4], counters, hold[6], granted, owed, event}))
local time = redis.call('TIME')
redis.call('ZADD', KEYS[2], 'GT', time[1] * 1000 + math.floor(time[2] / 1000) + ttl, KEYS[1])
local reply = {1}
for i = 1, wallets do
  reply[1 + i] = granted[i]
  reply[1 + wallets + i] = available[i]
end
return reply
