-- abandon_v1: end a hold whose deadline has passed: debit what extend_v1 noted as owed, give the rest back, and
-- append the event. What is not known to have been made is not charged; what is known is not forgotten.
--
-- KEYS  as in hold_v1
-- ARGV  1 time to live of the result in ms
--       2 the rest of the usage event, less the time and the amounts, a JSON object; where extend_v1 noted none
-- Reply 1 when this call ended it, else 0

local hold = find_hold()
if not hold or hold[1] ~= 'held' then
  redis.call('ZREM', KEYS[2], KEYS[1])
  return 0
end
local owed, rest, amounts, held = hold[8] or {}, hold[9] or '', {}, {}
local served = rest ~= ''
for i = 1, hold[2] do
  owed[i] = owed[i] or 0
  amounts[i] = string.format('%.0f', owed[i])
  held[i] = string.format('%.0f', granted_on(hold, i))
end
local after = move_money(hold, owed)
local tokens
if not served then
  tokens, rest = 0, ARGV[2]
end
correct_counters(hold, owed, tokens, served)
local time = redis.call('TIME')
local ended = string.format(
  '"at_ms":%.0f,"amounts_micro":[%s],"held_micro":[%s],',
  time[1] * 1000 + math.floor(time[2] / 1000), table.concat(amounts, ','), table.concat(held, ',')
)
redis.call('XADD', KEYS[3], '*', 'e', joined(hold[6], ended, rest))
end_hold('abandoned', hold, after, ARGV[1])
return 1
