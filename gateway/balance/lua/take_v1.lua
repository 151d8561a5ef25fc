-- take_v1: take what is available, at most so much and never below zero, once per operation.
--
-- KEYS  1 wallet, 2 marker of the operation
-- ARGV  1 most, 2 time to live of the marker in ms
-- Reply what was taken, the first time as ever after; nil when the wallet does not exist
--
-- That there was nothing to take is not remembered, so that it can be tried again, unless nothing was asked for: then
-- nothing is what the operation took, for good.

local available = redis.call('HGET', KEYS[1], 'a')
if not available then
  return false
end
local taken = redis.call('GET', KEYS[2])
if taken then
  return tonumber(taken)
end
local most = tonumber(ARGV[1])
taken = math.max(0, math.min(tonumber(available), most))
if taken > 0 or most == 0 then
  redis.call('SET', KEYS[2], taken, 'PX', ARGV[2])
end
if taken > 0 then
  redis.call('HSET', KEYS[1], 'a', available - taken)
end
return taken
