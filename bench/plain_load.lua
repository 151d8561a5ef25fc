-- One load of plain requests. wrk stops in mid-request at its time limit, which would leave requests
-- that the gateway served and wrk never counted. So this script falls silent `seconds` after its first
-- request: an empty request is never answered, each connection ends with its last answer, and the
-- count is exact.
--
-- Arguments: seconds, mean pause between requests in ms (0: none), body, end users (0: none), header...; a header that
-- is `Name: @file` takes the lines of the file in turn.
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
function init(args)
  seconds = tonumber(args[1])
  local pause_ms = tonumber(args[2])
  local users = tonumber(args[4])
  wrk.method = 'POST'
  wrk.body = args[3]
  wrk.headers['Content-Type'] = 'application/json'
  ready, turn = {}, 0
  for i = 5, #args do
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

began, last = 0, 0
function request()
  local at = now()
  if not deadline then
    began = at
    deadline = at + seconds
  end
  if at > deadline then
    return ''
  end
  turn = turn % #ready + 1
  return ready[turn]
end

function done(summary, latency, requests)
  io.write(string.format(
    '{"requests": %d, "refused": %d, "broken": %d, "p50_us": %d, "p99_us": %d, "max_us": %d}\n',
    summary.requests, summary.errors.status,
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout,
    latency:percentile(50), latency:percentile(99), latency.max))
end
