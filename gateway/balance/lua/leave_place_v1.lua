-- leave_place_v1: give a place back, and correct what was counted with it, once.
--
-- KEYS  as in take_place_v1
-- ARGV  1 request id, 2 minute in which it was counted, 3 what to add to the requests (0 or -1), 4 to the tokens
-- Reply 1, 0 when it had no place any more

local call, pack, parse = redis.call, struct.pack, struct.unpack
if call('ZREM', KEYS[2], ARGV[1]) == 0 then
  return 0
end
local counted = tonumber(ARGV[2])
for field, delta in pairs({rpm = tonumber(ARGV[3]), tpm = tonumber(ARGV[4])}) do
  local text = delta ~= 0 and call('HGET', KEYS[1], field)
  if text then
    local seen, current, previous = parse('<i8i8i8', text)
    if seen == counted then
      call('HSET', KEYS[1], field, pack('<i8i8i8', seen, math.max(0, current + delta), previous))
    elseif seen == counted + 1 then
      call('HSET', KEYS[1], field, pack('<i8i8i8', seen, current, math.max(0, previous + delta)))
    end
  end
end
return 1
