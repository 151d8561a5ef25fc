-- reserve_v1: hold on every wallet and count on every limit of a request, or change nothing.
--
-- KEYS  1 hold, 2 deadlines, 3 events, then n wallets, then the limit hashes
-- ARGV  1 a msgpack list (one argument is cheaper than thirty): time to live of the hold in ms, most
--         undrained events, list of ceiling and floor a wallet, tokens, list of five values a limit:
--         number of its hash, kind, maximum, amount (-1: the tokens, at most the maximum), number of its charge
--       2 context: the front of the usage event, a JSON object
-- Reply {1, granted.., available.., remaining..}   admitted
--       {2, charge, available, held}               a wallet does not cover its floor
--       {3, limit, used, retry after ms}           a limit is reached
--       {4, charge..}                              wallets that do not exist
--       {5}                                        too many events wait for the drain
-- Numbers of charges and limits in a reply count from 0.
--
-- Numbers are doubles here, exact below 2^53. redis.call writes them whole; inside a text '%.0f' does, as
-- Lua's own tostring would write 1e+15.
--
-- A repeat is found by SET NX, the first write, so that the usual case needs no read for it; every
-- refusal looks for a stored result first.

local LARGEST = 9007199254740991
local MINUTE, DAY = 60000, 86400000

local function stored()
  local value = redis.call('GET', KEYS[1])
  return value and cmsgpack.unpack(value)[3]
end

local asked = cmsgpack.unpack(ARGV[1])
local ttl, bounds, tokens, limits = asked[1], asked[3], asked[4], asked[5]
local wallets = #bounds / 2

if redis.call('XLEN', KEYS[3]) >= asked[2] then
  return stored() or {5}
end

-- 1. Wallets: read all of them, then decide.
local available, held, granted, floors = {}, {}, {}, {}
local missing
for i = 1, wallets do
  local row = redis.call('HMGET', KEYS[3 + i], 'a', 'h')
  if row[1] then
    available[i], held[i] = tonumber(row[1]), tonumber(row[2])
  else
    missing = missing or {4}
    missing[#missing + 1] = i - 1
  end
end
if missing then
  return stored() or missing
end
for i = 1, wallets do
  local ceiling = bounds[2 * i - 1]
  floors[i] = bounds[2 * i]
  if available[i] < floors[i] then
    return stored() or {2, i - 1, available[i], held[i]}
  end
  granted[i] = math.min(ceiling, available[i])
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local remaining = {}
local counters = {}  -- what settle and release need, flat: per limit hash number, kind, window, amount, charge
local writes = {}    -- per limit hash: its key, when it expires, how long to keep it, what to write

-- 2. Limits. A hash holds one field a kind:
--    rpm, tpm                  minute:count in it:count in the minute before it
--    spend_day, spend_month    window:spent in it
--    concurrency, spend_total  a number
--    x                         when the hash expires, so that most requests need not say it again
if limits[1] then
  -- The list becomes `counters`: a maximum makes room for the window once the limit is checked.
  counters = limits
  local minute = math.floor(now / MINUTE)
  local inside = (minute + 1) * MINUTE - now  -- ms of the minute before that are inside the last 60 s
  local maxima, useds, currents, previouses = {}, {}, {}, {}
  local row, field, hash
  local count = #counters / 5
  for i = 1, count do
    local base = 5 * i - 5
    local kind, maximum, amount, charge = counters[base + 2], counters[base + 3], counters[base + 4], counters[base + 5]
    if amount < 0 then
      amount = math.min(tokens, maximum)
      counters[base + 4] = amount
    end

    -- Read each hash once: limits of one hash follow each other.
    if counters[base + 1] ~= hash then
      hash = counters[base + 1]
      local key, fields, at = KEYS[3 + wallets + hash], {}, base
      repeat
        fields[#fields + 1] = counters[at + 2]
        at = at + 5
      until counters[at + 1] ~= hash
      row, field = redis.call('HMGET', key, 'x', unpack(fields)), 1
      writes[hash] = {key, tonumber(row[1] or 0), 0, {}}
    end
    field = field + 1
    local value = row[field]

    -- Check. Spend limits lower a grant as a wallet that holds less would, down to the floor.
    local window, used = 0, 0
    if kind == 'rpm' or kind == 'tpm' then
      local current, previous = 0, 0
      window = minute
      if value then
        local seen, a, b = string.match(value, '^(%d+):(%d+):(%d+)$')
        seen = tonumber(seen)
        if seen == window then
          current, previous = tonumber(a), tonumber(b)
        elseif seen == window - 1 then
          previous = tonumber(a)
        end
      end
      used = current + math.ceil(previous * inside / MINUTE)
      if used + amount > maximum then
        -- It fits when enough of the minute before has slid out: in this minute, or (as the count of
        -- this minute slides out) in the next. 0 when it never fits.
        local wait = 0
        local room = maximum - amount - current
        if room >= 0 then
          wait = inside - math.floor(room * MINUTE / previous)
        elseif amount <= maximum then
          wait = inside + math.max(0, MINUTE - math.floor((maximum - amount) * MINUTE / current))
        end
        return stored() or {3, i - 1, used, wait}
      end
      currents[i], previouses[i] = current, previous
    elseif kind == 'concurrency' then
      used = tonumber(value or 0)
      if used + amount > maximum then
        return stored() or {3, i - 1, used, 0}
      end
    else
      local retry = 0
      if kind == 'spend_day' then
        window = math.floor(now / DAY)
        retry = (window + 1) * DAY - now
      elseif kind == 'spend_month' then
        -- Month as year * 12 + month - 1, and the start of the next one; civil calendar from a day number
        -- (Hinnant's days algorithms), as Redis gives Lua no calendar.
        local function month_of(day)
          local shifted = day + 719468
          local era = math.floor(shifted / 146097)
          local doe = shifted - era * 146097
          local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
          local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
          local from_march = math.floor((5 * doy + 2) / 153)
          return (yoe + era * 400) * 12 + from_march + 2
        end
        local function month_start(month)
          local from_march = (month - 2) % 12
          local year = math.floor((month - 2) / 12)
          local era = math.floor(year / 400)
          local yoe = year - era * 400
          local doy = math.floor((153 * from_march + 2) / 5)
          return (era * 146097 + yoe * 365 + math.floor(yoe / 4) - math.floor(yoe / 100) + doy - 719468) * DAY
        end
        window = month_of(math.floor(now / DAY))
        retry = month_start(window + 1) - now
      end
      if value and window > 0 then
        local seen, spent = string.match(value, '^(%d+):(%d+)$')
        used = tonumber(seen) == window and tonumber(spent) or 0
      elseif value then
        used = tonumber(value)
      end
      if granted[charge] then
        local room = maximum - used
        if room < floors[charge] then
          return stored() or {3, i - 1, used, retry}
        end
        granted[charge] = math.min(granted[charge], room)
      end
    end
    maxima[i], useds[i] = maximum, used
    counters[base + 3] = window
  end

  -- Only now is every grant final: what to write.
  for i = 1, count do
    local base = 5 * i - 5
    local kind, window, amount = counters[base + 2], counters[base + 3], counters[base + 4]
    local write = writes[counters[base + 1]]
    local text, keep
    if kind == 'rpm' or kind == 'tpm' then
      text = string.format('%.0f:%.0f:%.0f', window, currents[i] + amount, previouses[i])
      keep = 3 * MINUTE
    elseif kind == 'concurrency' then
      text = useds[i] + amount
      keep = ttl + DAY  -- a day past the last hold's deadline nobody is in flight
    else
      amount = granted[counters[base + 5]] or 0
      counters[base + 4] = amount
      if kind == 'spend_total' then
        text = useds[i] + amount
        -- A token lives a day at most; a key may rest for months and must not get its total back.
        keep = string.find(write[1], ':l:t/', 1, true) and 2 * DAY or 400 * DAY
      else
        text = string.format('%.0f:%.0f', window, useds[i] + amount)
        keep = kind == 'spend_day' and 2 * DAY or 33 * DAY
      end
    end
    remaining[i] = maxima[i] - useds[i] - amount
    assert(useds[i] + amount <= LARGEST, 'counter out of range')
    local fields = write[4]
    fields[#fields + 1] = kind
    fields[#fields + 1] = text
    if keep > write[3] then
      write[3] = keep
    end
  end
end

-- 3. The hold, which is also the stored result. Nothing refuses from here on.
local reply = {1}
for i = 1, wallets do
  reply[1 + i] = granted[i]
  reply[1 + wallets + i] = available[i] - granted[i]
  held[i] = held[i] + granted[i]
  assert(held[i] <= LARGEST, 'held out of range')
end
for i = 1, #remaining do
  reply[1 + 2 * wallets + i] = remaining[i]
end
local keys = {}
for i = 4, #KEYS do
  keys[i - 3] = KEYS[i]
end
local hold = cmsgpack.pack({'held', wallets, reply, keys, counters, ARGV[2]})
if not redis.call('SET', KEYS[1], hold, 'NX') then
  return stored()
end
redis.call('ZADD', KEYS[2], now + ttl, KEYS[1])

-- 4. Wallets and counters.
for i = 1, wallets do
  redis.call('HSET', KEYS[3 + i], 'a', available[i] - granted[i], 'h', held[i])
end
for i = 1, #writes do
  local key, expires, keep, fields = unpack(writes[i])
  if expires < now + keep then
    local ends = now + keep + math.min(keep, DAY)
    fields[#fields + 1] = 'x'
    fields[#fields + 1] = ends
    redis.call('HSET', key, unpack(fields))
    redis.call('PEXPIREAT', key, ends)
  else
    redis.call('HSET', key, unpack(fields))
  end
end
return reply
