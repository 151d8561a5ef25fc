-- credit_v1: add to (or take from) what is available, once per operation.
--
-- KEYS  1 wallet, 2 marker of the operation
-- ARGV  1 delta, 2 time to live of the marker in ms
-- Reply {available, held}, or nil when the wallet does not exist (then the marker is not set either)

local LARGEST = 9007199254740991

local row = redis.call('HMGET', KEYS[1], 'a', 'h')
if not row[1] then
  return false
end
local available, held = tonumber(row[1]), tonumber(row[2])
local after = available + tonumber(ARGV[1])
if redis.call('EXISTS', KEYS[2]) == 1 then
  return {available, held}
end
-- With what is held, too: a hold that is given back must find room, or it could never end.
assert(after >= -LARGEST and after + held <= LARGEST, 'available out of range')
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
redis.call('HSET', KEYS[1], 'a', after)
return {after, held}
