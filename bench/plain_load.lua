-- One load of plain requests. wrk stops in mid-request at its time limit, which would leave requests
-- that the gateway served and wrk never counted. So this script falls silent `seconds` after its first
-- request: an empty request is never answered, each connection ends with its last answer, and the
-- count is exact.
--
-- With a proof, every answer is looked at: 200, a body that holds the proof and is as long as it must be. What is not
-- so is counted as wrong, and `last` is when the last answer came. That costs the load some microseconds an answer.
--
-- Arguments: seconds, mean pause between requests in ms (0: none), file of the body, end users (0: none), proof
-- (empty: none), least and most bytes of a body (most 0: no limit), header...; a header that is `Name: @file` takes
-- the lines of the file in turn.
local ffi = require('ffi')
ffi.cdef[[
  typedef struct { long s; long ns; } bench_time;
  int clock_gettime(int clock, bench_time *out);
]]
local MONOTONIC = 1
local cell = ffi.new('bench_time')
local function now()
  ffi.C.clock_gettime(MONOTONIC, cell)
  return tonumber(cell.s) + tonumber(cell.ns) / 1e9
end

local threads = {}
function setup(thread)
  threads[#threads + 1] = thread
end

local seconds, ready, turn, deadline
began, last, wrong, body_bytes = 0, 0, 0, 0
local function look_at_answers(proof, least, most)
  response = function(status, _, body)
    last = now()
    body_bytes = #body
    if status < 400 and (status ~= 200 or #body < least or (most > 0 and #body > most) or not string.find(body, proof, 1, true)) then
      wrong = wrong + 1
    end
  end
end

function init(args)
  seconds = tonumber(args[1])
  local pause_ms = tonumber(args[2])
  local users = tonumber(args[4])
  wrk.method = 'POST'
  local file = assert(io.open(args[3], 'rb'))
  wrk.body = file:read('*a')
  file:close()
  wrk.headers['Content-Type'] = 'application/json'
  ready, turn = {}, 0
  if args[5] ~= '' then
    look_at_answers(args[5], tonumber(args[6]), tonumber(args[7]))
  end
  for i = 8, #args do
    local name, value = string.match(args[i], '^([^:]+): (.*)$')
    if string.sub(value, 1, 1) == '@' then
      for line in io.lines(string.sub(value, 2)) do
        wrk.headers[name] = line
        ready[#ready + 1] = wrk.format()
      end
      return
    end
    wrk.headers[name] = value
  end
  for i = 1, math.max(users, 1) do
    if users > 0 then
      wrk.headers['X-Platform-User-Id'] = 'user-' .. i
    end
    ready[i] = wrk.format()
  end
  if pause_ms > 0 then
    math.randomseed(1)
    delay = function()
      return math.random(0, math.floor(2 * pause_ms))
    end
  end
end

function request()
  local at = now()
  if not deadline then
    began = at
    deadline = at + seconds
  end
  if at > deadline then
    if wrk.scheme ~= 'https' then
      return ''
    end
    wrk.thread:stop() -- TLS cannot write an empty request; what is under way is not counted, and nobody keeps books there
  end
  turn = turn % #ready + 1
  return ready[turn]
end

function done(summary, latency, requests)
  local one = threads[1]
  io.write(string.format(
    '{"requests": %d, "refused": %d, "broken": %d, "p50_us": %d, "p95_us": %d, "p99_us": %d, "max_us": %d, ' ..
    '"bytes": %d, "wrong": %d, "body_bytes": %d, "took_s": %.4f}\n',
    summary.requests, summary.errors.status,
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout,
    latency:percentile(50), latency:percentile(95), latency:percentile(99), latency.max,
    summary.bytes, one:get('wrong'), one:get('body_bytes'), one:get('last') - one:get('began')))
end
