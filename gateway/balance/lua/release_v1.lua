-- release_v1: give the hold back whole; the request did not run. No event.
--
-- KEYS  as in hold_v1
-- ARGV  1 a msgpack list: time to live of the result in ms
-- Reply 1 the first time, 0 when the hold had ended already

local hold = find_hold()
if not hold or hold[1] ~= 'held' then
  return 0
end
local nothing = {}
for i = 1, hold[2] do
  nothing[i] = 0
end
local after = move_money(hold, nothing)
correct_counters(hold, nothing, 0, false)
end_hold('released', hold, after, cmsgpack.unpack(ARGV[1])[1])
return 1
