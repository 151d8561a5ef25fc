-- abandon_v1: end a hold whose deadline has passed: give it back and append its context, and what ended it, as an event.
--
-- KEYS  as in hold_v1
-- ARGV  1 time to live of the result in ms
--       2 the rest of the usage event, less the time and the amounts, a JSON object
-- Reply 1 when this call ended it, else 0

local hold = find_hold()
if not hold or hold[1] ~= 'held' then
  redis.call('ZREM', KEYS[2], KEYS[1])
  return 0
end
local nothing, held = {}, {}
for i = 1, hold[2] do
  nothing[i] = 0
  held[i] = string.format('%.0f', hold[3][1 + i])
end
local after = move_money(hold, nothing)
correct_counters(hold, nothing, 0, false)
local time = redis.call('TIME')
local ended = string.format(
  '"at_ms":%.0f,"amounts_micro":[%s],"held_micro":[%s],',
  time[1] * 1000 + math.floor(time[2] / 1000), table.concat(nothing, ','), table.concat(held, ',')
)
redis.call('XADD', KEYS[3], '*', 'e', joined(hold[6], ended, ARGV[2]))
end_hold('abandoned', hold, after, ARGV[1])
return 1
