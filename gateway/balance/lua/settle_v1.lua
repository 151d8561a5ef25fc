-- settle_v1: debit each wallet, free the hold, correct the counters, append the event: once.
--
-- KEYS  as in hold_v1
-- ARGV  1 a record: time to live of the result in ms, tokens used, the amount per wallet (i8 each)
--       2 the usage event, a JSON object; only its rest, where there is a third argument: the hold has its front
-- Reply a record: B 1 this time, 0 when it had ended, 2 when nothing is known of it; available per wallet (i8 each);
--       id of the event, '' when none was appended for it by a settlement
--
-- 2 is an ended hold whose result is forgotten, or one that was lost: the caller knows which (see resubmit_v1).

if state == SETTLED then
  return '\0' .. sub(value, ends_at)
end
local ttl, tokens, at = parse('<i8i8', ARGV[1])
local count = (#ARGV[1] - 16) / 8
local paid = {parse('<' .. rep('i8', count), ARGV[1], at)}
paid[count + 1] = nil  -- where parsing ended

if state ~= HELD then
  -- Swept, released or unknown: nothing is charged; say what is there now.
  for i = 1, count do
    paid[i] = tonumber(call('HGET', KEYS[3 + i], 'a') or 0)
  end
  return (state == 0 and '\2' or '\0') .. packed(paid, count)
end

local after = packed(move_money(paid), wallets)
if limits > 0 then
  correct_counters(paid, tokens, true)
end
local result = after .. call('XADD', KEYS[3], '*', 'e', ARGV[3] and event_of('', ARGV[2]) or ARGV[2])
end_hold(SETTLED, result, format('%d', ttl))
return '\1' .. result
