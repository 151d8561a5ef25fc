-- take_place_v1: count a request on the capacity of one deployment, or change nothing.
--
-- KEYS  1 counters: fields rpm and tpm, each minute, count in it, count in the minute before it (i8 each; as in reserve_v1)
--       2 places: request ids by the time at which they are free again should nobody say so
-- ARGV  1 request id, 2 how long its place is its own, in ms, unless renewed; 3 requests a minute, 4 tokens a minute,
--       5 requests at once (each -1: without limit), 6 tokens that it may use
-- Reply {1, minute, tokens counted}, or {0, ms to wait; 0 when that cannot be told}
--
-- Who has a place already keeps it: a repeat counts once.

local MINUTE = 60000
local call, pack, parse, floor = redis.call, struct.pack, struct.unpack, math.floor
local time = redis.call('TIME')
local now = time[1] * 1000 + floor(time[2] / 1000)
local minute = floor(now / MINUTE)
local inside = (minute + 1) * MINUTE - now  -- ms of the minute before that are inside the last 60 s
local lease, at_once = tonumber(ARGV[2]), tonumber(ARGV[5])
local tokens_max = tonumber(ARGV[4])
local tokens = tokens_max < 0 and 0 or math.min(tonumber(ARGV[6]), tokens_max)

if call('ZSCORE', KEYS[2], ARGV[1]) then
  return {1, minute, tokens}
end
call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
if at_once >= 0 and call('ZCARD', KEYS[2]) >= at_once then
  return {0, 0}
end

local write = {}
for field, asked in pairs({rpm = {tonumber(ARGV[3]), 1}, tpm = {tokens_max, tokens}}) do
  local maximum, amount = asked[1], asked[2]
  if maximum >= 0 then
    local current, previous = 0, 0
    local text = call('HGET', KEYS[1], field)
    if text then
      local seen, a, b = parse('<i8i8i8', text)
      if seen == minute then
        current, previous = a, b
      elseif seen == minute - 1 then
        previous = a
      end
    end
    if current + math.ceil(previous * inside / MINUTE) + amount > maximum then
      local wait = 0
      local room = maximum - amount - current
      if room >= 0 then
        wait = inside - floor(room * MINUTE / previous)
      elseif amount <= maximum then
        wait = inside + math.max(0, MINUTE - floor((maximum - amount) * MINUTE / current))
      end
      return {0, wait}
    end
    write[#write + 1] = field
    write[#write + 1] = pack('<i8i8i8', minute, current + amount, previous)
  end
end
if #write > 0 then
  call('HSET', KEYS[1], unpack(write))
  call('PEXPIRE', KEYS[1], 3 * MINUTE)
end
call('ZADD', KEYS[2], now + lease, ARGV[1])
call('PEXPIRE', KEYS[2], 2 * lease)
return {1, minute, tokens}
