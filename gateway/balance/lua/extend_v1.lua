-- extend_v1: enlarge a hold as far as wallets and spend limits go, put its deadline off, and note what is owed so far.
--
-- KEYS  as in hold_v1
-- ARGV  1 a record: time to live from now on in ms, tokens used so far (i8 each), whether what is owed is said (B); per wallet
--         the whole hold that is wanted and what is owed so far (i8 i8); then the limits as reserve_v1 takes them
--       2 the rest of the usage event, should the hold be abandoned (empty: as before)
-- Reply a record: B 1 and granted in all per wallet, available per wallet (i8 each): the hold stands; nothing is ever
--       given back here. B 0: it has ended. B 2: nothing is known of it

if state ~= HELD then
  return state == 0 and '\2' or '\0'
end
local ttl, tokens, says, at = parse('<i8i8B', ARGV[1])
local available, held, more = {}, {}, {}
local grows = false
for i = 1, wallets do
  local wanted, owes
  wanted, owes, at = parse('<i8i8', ARGV[1], at)
  if says == 1 then
    amounts[wallets + i] = owes
  end
  local row = call('HMGET', KEYS[3 + i], 'a', 'h')
  available[i], held[i] = tonumber(row[1] or 0), tonumber(row[2] or 0)
  more[i] = math.max(0, math.min(wanted - amounts[i], available[i]))
  grows = grows or more[i] > 0
end

-- A spend limit lowers what is added, as it lowers a grant; one whose window is over has nothing to say.
local function spent(base)
  local kind, window, charge = counters[base + 1], counters[base + 2], counters[base + 4]
  if sub(kind, 1, 6) ~= 'spend_' or (more[charge] or 0) == 0 then
    return nil
  end
  local text = call('HGET', KEYS[3 + wallets + counters[base]], kind)
  if text and window > 0 then
    local seen, used = match(text, '^(%d+):(%d+)$')
    return tonumber(seen) == window and tonumber(used) or nil, text
  end
  return text and tonumber(text), text
end

if grows then
  local asked = {parse('<' .. rep(COUNTER, limits), ARGV[1], at)}
  for base = 1, 5 * limits, 5 do
    local used = spent(base)
    if used then
      local charge = counters[base + 4]
      more[charge] = math.max(0, math.min(more[charge], asked[base + 2] - used))
    end
  end
  for base = 1, 5 * limits, 5 do
    local used, text = spent(base)
    if used then
      local kind, added = counters[base + 1], more[counters[base + 4]]
      call('HSET', KEYS[3 + wallets + counters[base]], kind, corrected(kind, text, counters[base + 2], added))
      counters[base + 3] = counters[base + 3] + added
    end
  end
  for i = 1, wallets do
    if more[i] > 0 then
      amounts[i], available[i], held[i] = amounts[i] + more[i], available[i] - more[i], held[i] + more[i]
      assert(held[i] <= LARGEST, 'held out of range')
      call('HSET', KEYS[3 + i], 'a', format('%d', available[i]), 'h', format('%d', held[i]))
    end
  end
end

-- A limit of tokens counts what was used by now in the minute that reserve counted in, as the settlement will.
for base = 1, 5 * limits, 5 do
  local more_tokens = tokens - counters[base + 3]
  if counters[base + 1] == 'tpm' and more_tokens > 0 then
    local key = KEYS[3 + wallets + counters[base]]
    local counted = call('HGET', key, 'tpm')
    local text = counted and corrected('tpm', counted, counters[base + 2], more_tokens)
    if text then
      call('HSET', key, 'tpm', text)
      counters[base + 3] = tokens
    end
  end
end

local counted = pack('<' .. rep(COUNTER, limits), unpack(counters))
call(
  'SET', KEYS[1],
  sub(value, 1, ends_at - 1) .. pack('<I4I2I4', #keys, #counted, of_context) .. packed(amounts, 2 * wallets) .. keys .. counted
    .. (ARGV[2] == '' and sub(value, behind) or sub(value, behind, behind + of_context - 1) .. ARGV[2])
)
local time = redis.call('TIME')
call('ZADD', KEYS[2], 'GT', format('%d', time[1] * 1000 + math.floor(time[2] / 1000) + ttl), KEYS[1])
return '\1' .. packed(amounts, wallets) .. packed(available, wallets)
