-- settle_v1: debit each wallet, free the hold, correct the counters, append the event: once.
--
-- KEYS  as in hold_v1
-- ARGV  1 a msgpack list: time to live of the result in ms, tokens used, list of the amount per wallet
--       2 the rest of the usage event, a JSON object as its front is
-- Reply {1 the first time, else 0; available per wallet..}

local hold = find_hold()
local asked = cmsgpack.unpack(ARGV[1])
local amounts = asked[3]

if not hold or hold[1] ~= 'held' then
  local reply = {0}
  if hold and hold[1] == 'settled' then
    for i = 1, hold[2] do
      reply[1 + i] = hold[4][i]
    end
  else
    -- Swept, released or long forgotten: nothing is charged; say what is there now.
    for i = 1, #amounts do
      reply[1 + i] = tonumber(redis.call('HGET', KEYS[3 + i], 'a') or 0)
    end
  end
  return reply
end

local reply = {1}
local after = move_money(hold, amounts)
if hold[5][1] then
  correct_counters(hold, amounts, asked[2], true)
end
redis.call('XADD', KEYS[3], '*', 'e', joined(hold[6], '', ARGV[2]))
end_hold('settled', hold, after, asked[1])
for i = 1, hold[2] do
  reply[1 + i] = after[i]
end
return reply
