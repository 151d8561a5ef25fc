-- resubmit_v1: settle a request whose hold was lost: debit each wallet, append the event, remember the result: once.
--
-- A wallet that was rebuilt from books that have the request is not debited: its amount counts it. Limits are not
-- corrected, as what was counted in them was lost with the hold.
--
-- KEYS  1 hold, 2 events, then the wallets, then for each wallet the set of requests that its rebuild counted
-- ARGV  1 a msgpack list as settle_v1 takes it, 2 the whole usage event, 3 request id
-- Reply {1 this time, 0 when there is a result; id of the event ('' when it has none); available per wallet..}
--       {3}                 the hold stands: settle it
--       {4, wallet..}       wallets that do not exist, counted from 0; nothing changed

local LARGEST = 9007199254740991
local value = redis.call('GET', KEYS[1])
local asked = cmsgpack.unpack(ARGV[1])
local ttl, amounts = asked[1], asked[3]
local count = #amounts
if value then
  local result = cmsgpack.unpack(value)
  if result[1] == 'held' then
    return {3}
  end
  local reply = {0, result[1] == 'settled' and result[5] or ''}
  for i = 1, count do
    reply[2 + i] = result[4][i]
  end
  return reply
end

local after, missing = {}, nil
for i = 1, count do
  local available = redis.call('HGET', KEYS[2 + i], 'a')
  if not available then
    missing = missing or {4}
    missing[#missing + 1] = i - 1
  else
    after[i] = tonumber(available)
    if redis.call('SISMEMBER', KEYS[2 + count + i], ARGV[3]) == 0 then
      after[i] = after[i] - amounts[i]
    end
    assert(after[i] >= -LARGEST, 'available out of range')
  end
end
if missing then
  return missing
end
for i = 1, count do
  redis.call('HSET', KEYS[2 + i], 'a', after[i])
end
local id = redis.call('XADD', KEYS[2], '*', 'e', ARGV[2])
local reserved, reply = {1}, {1, id}
for i = 1, count do
  reserved[1 + i] = amounts[i]
  reserved[1 + count + i] = after[i]
  reply[2 + i] = after[i]
end
redis.call('SET', KEYS[1], cmsgpack.pack({'settled', count, reserved, after, id}), 'PX', ttl)
return reply
