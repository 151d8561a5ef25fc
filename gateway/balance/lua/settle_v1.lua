-- settle_v1: debit each wallet, free the hold, correct the counters, append the event: once.
--
-- KEYS  as in hold_v1
-- ARGV  1 a msgpack list: time to live of the result in ms, tokens used, list of the amount per wallet
--       2 the rest of the usage event, a JSON object as its front is
-- Reply {1 this time, 0 when it had ended, 2 when nothing is known of it; id of the event, '' when none was appended for it
--        by a settlement; available per wallet..}
--
-- 2 is an ended hold whose result is forgotten, or one that was lost: the caller knows which (see resubmit_v1).

local hold = find_hold()
local asked = cmsgpack.unpack(ARGV[1])
local amounts = asked[3]

if not hold or hold[1] ~= 'held' then
  local reply = {hold and 0 or 2, ''}
  if hold and hold[1] == 'settled' then
    reply[2] = hold[5] or ''
    for i = 1, hold[2] do
      reply[2 + i] = hold[4][i]
    end
  else
    -- Swept, released or unknown: nothing is charged; say what is there now.
    for i = 1, #amounts do
      reply[2 + i] = tonumber(redis.call('HGET', KEYS[3 + i], 'a') or 0)
    end
  end
  return reply
end

local after = move_money(hold, amounts)
if hold[5][1] then
  correct_counters(hold, amounts, asked[2], true)
end
local id = redis.call('XADD', KEYS[3], '*', 'e', joined(hold[6], '', ARGV[2]))
end_hold('settled', hold, after, asked[1], id)
local reply = {1, id}
for i = 1, hold[2] do
  reply[2 + i] = after[i]
end
return reply
