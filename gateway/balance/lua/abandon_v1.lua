-- abandon_v1: end a hold whose deadline has passed: give it back and append its context as an event.
--
-- KEYS  as in hold_v1
-- ARGV  1 time to live of the result in ms
-- Reply 1 when this call ended it, else 0

local hold = find_hold()
if not hold or hold[1] ~= 'held' then
  redis.call('ZREM', KEYS[2], KEYS[1])
  return 0
end
local nothing = {}
for i = 1, hold[2] do
  nothing[i] = 0
end
local after = move_money(hold, nothing)
correct_counters(hold, nothing, 0, false)
redis.call('XADD', KEYS[3], '*', 'e', hold[6])
end_hold('abandoned', hold, after, ARGV[1])
return 1
