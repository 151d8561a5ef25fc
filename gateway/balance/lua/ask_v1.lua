-- ask_v1: what a shard is by now: its epoch, and the oldest event that waits in it.
--
-- An epoch is a random word. It goes when everything goes, and whoever asks first afterwards gives the next one: another
-- epoch than before means that everything was lost in between.
--
-- KEYS  1 epoch, 2 events
-- ARGV  1 the epoch to set where there is none
-- Reply {epoch, id of the oldest event or '', now in ms}

local epoch = redis.call('GET', KEYS[1])
if not epoch then
  epoch = ARGV[1]
  redis.call('SET', KEYS[1], epoch)
end
local oldest = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)
local time = redis.call('TIME')
return {epoch, oldest[1] and oldest[1][1] or '', time[1] * 1000 + math.floor(time[2] / 1000)}
