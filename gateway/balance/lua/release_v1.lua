-- release_v1: give the hold back whole; nothing was used. No event.
--
-- KEYS  as in hold_v1
-- ARGV  1 time to live of the result in ms
--       2 1 when a provider was asked: then the request counts as one all the same
-- Reply 1 the first time, 0 when the hold had ended already

if state ~= HELD then
  return 0
end
local nothing = {}
for i = 1, wallets do
  nothing[i] = 0
end
local after = move_money(nothing)
correct_counters(nothing, 0, ARGV[2] == '1')
end_hold(RELEASED, packed(after, wallets), ARGV[1])
return 1
