-- settle_v1: debit each wallet, free the hold, correct the counters, append the event: once.
--
-- KEYS  as in hold_v1
-- ARGV  1 time to live of the result in ms, 2 tokens used, 3 event, then the amount per wallet
-- Reply {1 the first time, else 0; available per wallet..}

local hold = find_hold()

if not hold or hold[1] ~= 'held' then
  local reply = {0}
  if hold and hold[1] == 'settled' then
    for i = 1, hold[2] do
      reply[1 + i] = hold[4][i]
    end
  else
    -- Swept, released or long forgotten: nothing is charged; say what is there now.
    for i = 1, #ARGV - 3 do
      reply[1 + i] = tonumber(redis.call('HGET', KEYS[3 + i], 'a') or 0)
    end
  end
  return reply
end

local amounts, reply = {}, {1}
for i = 1, hold[2] do
  amounts[i] = tonumber(ARGV[3 + i])
end
local after = move_money(hold, amounts)
if hold[5][1] then
  correct_counters(hold, amounts, tonumber(ARGV[2]), true)
end
redis.call('XADD', KEYS[3], '*', 'e', ARGV[3])
end_hold('settled', hold, after, ARGV[1])
for i = 1, hold[2] do
  reply[1 + i] = after[i]
end
return reply
