-- used_v1: what limits have counted, as it is stored, and the time to read it by; changes nothing.
--
-- KEYS  a limit hash for each limit
-- ARGV  the kind of each
-- Reply now in ms; then a field a limit (see reserve_v1), false where nothing was counted

local time = redis.call('TIME')
local reply = {time[1] * 1000 + math.floor(time[2] / 1000)}
for i = 1, #KEYS do
  reply[i + 1] = redis.call('HGET', KEYS[i], ARGV[i])
end
return reply
