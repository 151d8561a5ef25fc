-- keep_places_v1: put off the time at which places of requests in flight are free again.
--
-- KEYS  1 places, as in take_place_v1
-- ARGV  1 how long they stay, in ms; then request ids
-- Reply how many ids were there. One whose time had passed gets its place again, as its request still runs.

local call = redis.call
local time = redis.call('TIME')
local ends = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[1]
for i = 2, #ARGV do
  call('ZADD', KEYS[1], ends, ARGV[i])
end
call('PEXPIRE', KEYS[1], 2 * ARGV[1])
return #ARGV - 1
