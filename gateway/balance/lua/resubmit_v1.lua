-- resubmit_v1: settle a request whose hold was lost: debit each wallet, append the event, remember the result: once.
--
-- A wallet that was rebuilt from books that have the request is not debited: its amount counts it. Limits are not
-- corrected, as what was counted in them was lost with the hold.
--
-- KEYS  1 hold, 2 events, then the wallets, then for each wallet the set of requests that its rebuild counted
-- ARGV  1 a record as settle_v1 takes it, 2 the whole usage event, 3 request id
-- Reply as settle_v1 replies: B 1 this time, 0 when there is a result, and the rest; or
--       B 3                 the hold stands: settle it
--       B 4, B wallet..     wallets that do not exist, counted from 0; nothing changed

local LARGEST = 9007199254740991
local HELD, SETTLED = 1, 2
local value = redis.call('GET', KEYS[1])
local ttl, _, at = struct.unpack('<i8i8', ARGV[1])
local count = (#ARGV[1] - 16) / 8
local amounts = {struct.unpack('<' .. string.rep('i8', count), ARGV[1], at)}
if value then
  local state, wallets, limits, behind = struct.unpack('<BBB', value)
  behind = behind + 8 * (2 * wallets + limits)
  if state == HELD then
    return '\3'
  end
  return '\0' .. string.sub(value, behind, state ~= SETTLED and behind + 8 * wallets - 1 or -1)
end

local after, missing = {}, '\4'
for i = 1, count do
  local available = redis.call('HGET', KEYS[2 + i], 'a')
  if not available then
    missing = missing .. string.char(i - 1)
  else
    after[i] = tonumber(available)
    if redis.call('SISMEMBER', KEYS[2 + count + i], ARGV[3]) == 0 then
      after[i] = after[i] - amounts[i]
    end
    assert(after[i] >= -LARGEST, 'available out of range')
  end
end
if #missing > 1 then
  return missing
end
for i = 1, count do
  redis.call('HSET', KEYS[2 + i], 'a', string.format('%d', after[i]))
end
local available = struct.pack('<' .. string.rep('i8', count), unpack(after))
local id = redis.call('XADD', KEYS[2], '*', 'e', ARGV[2])
-- As hold_v1 has it: what reserve would have said is that it granted the amounts.
ttl = string.format('%d', ttl)
local record = struct.pack('<BBB', SETTLED, count, 0) .. string.sub(ARGV[1], at) .. available .. available .. id
redis.call('SET', KEYS[1], record, 'PX', ttl)
return '\1' .. available .. id
