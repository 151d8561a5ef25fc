-- reserve_v1: hold on every wallet and count on every limit of a request, or change nothing.
--
-- KEYS  1 hold, 2 deadlines, 3 events, then n wallets, then the limit hashes
-- ARGV  1 a record (one argument is cheaper than thirty): time to live of the hold in ms, most undrained events, tokens
--         (i8 each), number of wallets, number of limits (B each); ceiling and floor a wallet (i8 each); and a limit
--         (Bsi8i8B): number of its hash, kind with a \0, maximum, amount (-1: the tokens, at most the maximum),
--         number of its charge. Limits of one hash follow each other
--       2 context: the front of the usage event, a JSON object
-- Reply a record, its first byte
--       1  admitted; granted per wallet, available per wallet, remaining per limit (i8 each)
--       2  a wallet does not cover its floor; charge, available, held (i8 each)
--       3  a limit is reached; limit, used, retry after ms (i8 each)
--       4  wallets that do not exist; charge.. (B each)
--       5  too many events wait for the drain
-- Numbers of charges and limits in a reply count from 0.
--
-- A repeat is found by SETNX, the first write, so that the usual case needs no read for it; every
-- refusal looks for a stored result first. How a hold is stored: see hold_v1.lua.

local LARGEST = 9007199254740991
local MINUTE, DAY = 60000, 86400000
local HELD = 1
local COUNTER = 'Bsi8i8B'
local call, pack, parse = redis.call, struct.pack, struct.unpack
local format, match, rep, floor = string.format, string.match, string.rep, math.floor

local function stored()
  local value = call('GET', KEYS[1])
  if value then
    local _, wallets, limits = parse('<BBB', value)
    return '\1' .. string.sub(value, 4, 3 + 8 * (2 * wallets + limits))
  end
end

local ttl, backlog, tokens, wallets, limits, at = parse('<i8i8i8BB', ARGV[1])

if call('XLEN', KEYS[3]) >= backlog then
  return stored() or '\5'
end

-- 1. Wallets: read all of them, then decide.
local available, held, granted, floors = {0, 0}, {0, 0}, {0, 0, 0, 0, 0, 0, 0, 0}, {0, 0}
local missing = '\4'
for i = 1, wallets do
  local row = call('HMGET', KEYS[3 + i], 'a', 'h')
  if row[1] then
    available[i], held[i] = tonumber(row[1]), tonumber(row[2])
  else
    missing = missing .. string.char(i - 1)
  end
end
if #missing > 1 then
  return stored() or missing
end
for i = 1, wallets do
  local ceiling, least
  ceiling, least, at = parse('<i8i8', ARGV[1], at)
  if available[i] < least then
    return stored() or '\2' .. pack('<i8i8i8', i - 1, available[i], held[i])
  end
  granted[i], floors[i] = math.min(ceiling, available[i]), least
end

local time = redis.call('TIME')
local now = time[1] * 1000 + floor(time[2] / 1000)
local counters, texts, remaining, expires  -- per limit: five values, what to write, what is left; per hash: when it expires
local counted = ''

-- 2. Limits. A hash holds one field a kind:
--    rpm, tpm                  minute, count in it, count in the minute before it (i8 each)
--    spend_day, spend_month    window:spent in it
--    concurrency, spend_total  a number
--    x                         when the hash expires, so that most requests need not say it again
if limits > 0 then
  -- The limits become what the hold keeps of them: a maximum makes room for the window once the limit is checked.
  counters = {parse('<' .. rep(COUNTER, limits), ARGV[1], at)}
  texts, remaining, expires = {0, 0, 0}, {0, 0, 0}, {0, 0}
  local minute = floor(now / MINUTE)
  local inside = (minute + 1) * MINUTE - now  -- ms of the minute before that are inside the last 60 s
  local spends = false
  local row, field, hash
  for i = 1, limits do
    local base = 5 * i - 5
    local kind, maximum, amount, charge = counters[base + 2], counters[base + 3], counters[base + 4], counters[base + 5]
    if amount < 0 then
      amount = math.min(tokens, maximum)
      counters[base + 4] = amount
    end

    -- Read each hash once.
    if counters[base + 1] ~= hash then
      hash = counters[base + 1]
      local fields, count, next_one = {0, 0, 0}, 0, i
      repeat
        count = count + 1
        fields[count] = counters[5 * next_one - 3]
        next_one = next_one + 1
      until next_one > limits or counters[5 * next_one - 4] ~= hash
      row, field = call('HMGET', KEYS[3 + wallets + hash], 'x', unpack(fields, 1, count)), 1
      expires[hash] = tonumber(row[1] or 0)
    end
    field = field + 1
    local text = row[field]

    -- Check. Spend limits lower a grant as a wallet that holds less would, down to the floor.
    local window, used = 0, 0
    if kind == 'rpm' or kind == 'tpm' then
      local current, previous = 0, 0
      window = minute
      if text then
        local seen, a, b = parse('<i8i8i8', text)
        if seen == window then
          current, previous = a, b
        elseif seen == window - 1 then
          previous = a
        end
      end
      used = current + math.ceil(previous * inside / MINUTE)
      if used + amount > maximum then
        -- It fits when enough of the minute before has slid out: in this minute, or (as the count of
        -- this minute slides out) in the next. 0 when it never fits.
        local wait = 0
        local room = maximum - amount - current
        if room >= 0 then
          wait = inside - floor(room * MINUTE / previous)
        elseif amount <= maximum then
          wait = inside + math.max(0, MINUTE - floor((maximum - amount) * MINUTE / current))
        end
        return stored() or '\3' .. pack('<i8i8i8', i - 1, used, wait)
      end
      texts[i] = pack('<i8i8i8', window, current + amount, previous)
    elseif kind == 'concurrency' then
      used = tonumber(text or 0)
      if used + amount > maximum then
        return stored() or '\3' .. pack('<i8i8i8', i - 1, used, 0)
      end
      texts[i] = format('%d', used + amount)
    else
      local retry = 0
      if kind == 'spend_day' then
        window = floor(now / DAY)
        retry = (window + 1) * DAY - now
      elseif kind == 'spend_month' then
        -- Month as year * 12 + month - 1, and the start of the next one; civil calendar from a day number
        -- (Hinnant's days algorithms), as Redis gives Lua no calendar.
        local function month_of(day)
          local shifted = day + 719468
          local era = floor(shifted / 146097)
          local doe = shifted - era * 146097
          local yoe = floor((doe - floor(doe / 1460) + floor(doe / 36524) - floor(doe / 146096)) / 365)
          local doy = doe - (365 * yoe + floor(yoe / 4) - floor(yoe / 100))
          local from_march = floor((5 * doy + 2) / 153)
          return (yoe + era * 400) * 12 + from_march + 2
        end
        local function month_start(month)
          local from_march = (month - 2) % 12
          local year = floor((month - 2) / 12)
          local era = floor(year / 400)
          local yoe = year - era * 400
          local doy = floor((153 * from_march + 2) / 5)
          return (era * 146097 + yoe * 365 + floor(yoe / 4) - floor(yoe / 100) + doy - 719468) * DAY
        end
        window = month_of(floor(now / DAY))
        retry = month_start(window + 1) - now
      end
      if text and window > 0 then
        local seen, spent = match(text, '^(%d+):(%d+)$')
        used = tonumber(seen) == window and tonumber(spent) or 0
      elseif text then
        used = tonumber(text)
      end
      if charge <= wallets then
        local room = maximum - used
        if room < floors[charge] then
          return stored() or '\3' .. pack('<i8i8i8', i - 1, used, retry)
        end
        granted[charge] = math.min(granted[charge], room)
      end
      amount, spends = 0, true
      texts[i] = used
    end
    remaining[i] = maximum - used - amount
    counters[base + 3] = window
    assert(used + amount <= LARGEST, 'counter out of range')
  end

  -- Only now is every grant final, and with it what counts as spent.
  for i = 1, spends and limits or 0 do
    local base = 5 * i - 5
    local window, amount = counters[base + 3], counters[base + 5] <= wallets and granted[counters[base + 5]] or 0
    if string.sub(counters[base + 2], 1, 6) == 'spend_' then
      local spent = texts[i] + amount
      assert(spent <= LARGEST, 'counter out of range')
      texts[i] = window > 0 and format('%d:%d', window, spent) or format('%d', spent)
      remaining[i] = remaining[i] - amount
      counters[base + 4] = amount
    end
  end
  counted = pack('<' .. rep(COUNTER, limits), unpack(counters))
end

-- 3. The hold, which is also the stored result. Nothing refuses from here on.
local reply = granted
for i = 1, wallets do
  held[i] = held[i] + granted[i]
  assert(held[i] <= LARGEST, 'held out of range')
  available[i] = available[i] - granted[i]
  reply[wallets + i] = available[i]
end
for i = 1, limits do
  reply[2 * wallets + i] = remaining[i]
end
local count = 2 * wallets + limits
local numbers = pack('<' .. rep('i8', count), unpack(reply, 1, count))
local keys = table.concat(KEYS, '\0', 4)
local hold = pack('<BBB', HELD, wallets, limits) .. numbers .. pack('<I4I2I4', #keys, #counted, #ARGV[2])
  .. string.sub(numbers, 1, 8 * wallets) .. rep('\0', 8 * wallets) .. keys .. counted .. ARGV[2]
if call('SETNX', KEYS[1], hold) == 0 then
  return stored()
end
call('ZADD', KEYS[2], format('%d', now + ttl), KEYS[1])

-- 4. Wallets and counters.
for i = 1, wallets do
  call('HSET', KEYS[3 + i], 'a', format('%d', available[i]), 'h', format('%d', held[i]))
end
local i = 1
while i <= limits do
  local hash = counters[5 * i - 4]
  local key = KEYS[3 + wallets + hash]
  local fields, count, keep = {0, 0, 0, 0, 0, 0, 0, 0}, 0, 0
  repeat
    local kind = counters[5 * i - 3]
    fields[count + 1], fields[count + 2] = kind, texts[i]
    count = count + 2
    local this = 3 * MINUTE
    if kind == 'concurrency' then
      this = ttl + DAY  -- a day past the last hold's deadline nobody is in flight
    elseif kind == 'spend_total' then
      -- A token lives a day at most; a key may rest for months and must not get its total back.
      this = string.find(key, ':l:t/', 1, true) and 2 * DAY or 400 * DAY
    elseif kind == 'spend_day' then
      this = 2 * DAY
    elseif kind == 'spend_month' then
      this = 33 * DAY
    end
    keep = math.max(keep, this)
    i = i + 1
  until i > limits or counters[5 * i - 4] ~= hash
  if expires[hash] < now + keep then
    local ends = format('%d', now + keep + math.min(keep, DAY))
    fields[count + 1], fields[count + 2] = 'x', ends
    call('HSET', key, unpack(fields, 1, count + 2))
    call('PEXPIREAT', key, ends)
  else
    call('HSET', key, unpack(fields, 1, count))
  end
end
return '\1' .. numbers
