-- abandon_v1: end a hold whose deadline has passed: debit what extend_v1 noted as owed, give the rest back, and
-- append the event. What is not known to have been made is not charged; what is known is not forgotten.
--
-- KEYS  as in hold_v1
-- ARGV  1 time to live of the result in ms
--       2 the rest of the usage event, less the time and the amounts, a JSON object; where extend_v1 noted none
-- Reply 1 when this call ended it, else 0

if state ~= HELD then
  call('ZREM', KEYS[2], KEYS[1])
  return 0
end
local owed, paid, held = {}, {}, {}
for i = 1, wallets do
  owed[i] = amounts[wallets + i]
  paid[i], held[i] = format('%d', owed[i]), format('%d', amounts[i])
end
local rest = sub(value, behind + of_context)
local served = rest ~= ''
local after = move_money(owed)
correct_counters(owed, not served and 0 or nil, served)
local time = redis.call('TIME')
local ended = format(
  '"at_ms":%d,"amounts_micro":[%s],"held_micro":[%s],',
  time[1] * 1000 + math.floor(time[2] / 1000), table.concat(paid, ','), table.concat(held, ',')
)
call('XADD', KEYS[3], '*', 'e', event_of(ended, served and rest or ARGV[2]))
end_hold(ABANDONED, packed(after, wallets), ARGV[1])
return 1
