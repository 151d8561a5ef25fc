-- sweep_v1: the holds of a shard whose deadline has passed, oldest first; changes nothing.
-- abandon_v1 then ends each, as only the hold itself says which wallets and counters it touched.
--
-- KEYS  1 deadlines
-- ARGV  1 how many at most
-- Reply the keys of the holds

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now), 'LIMIT', 0, ARGV[1])
