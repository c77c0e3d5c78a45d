-- What wrk sends: the body in the file $BODY, in which every MARK is a number that no other request has.
-- So no two requests are alike, as in a session, and what a proxy remembers of one helps with another only as far as
-- they agree. At the end a line of JSON says what came of it.

local MARK = "@NUMBER@"
local threads = {}

function setup(thread)
  thread:set("id", #threads)
  table.insert(threads, thread)
end

function init(args)
  local file = assert(io.open(os.getenv("BODY"), "rb"))
  local text = file:read("*a")
  file:close()
  pieces = {}
  local from = 1
  while true do
    local start, stop = text:find(MARK, from, true)
    table.insert(pieces, text:sub(from, (start or 0) - 1))
    if not start then break end
    from = stop + 1
  end
  number = 0
  wrk.headers["Content-Type"] = "application/json"
  wrk.headers["x-api-key"] = "sk-benchmark"
  wrk.headers["anthropic-version"] = "2023-06-01"
end

function request()
  number = number + 1
  return wrk.format("POST", nil, nil, table.concat(pieces, string.format("%02d%06d", id, number % 1000000)))
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '{"requests":%d,"seconds":%.6f,"p50":%.3f,"p99":%.3f,"least":%.3f,"errors":%d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    latency.min / 1e3, errors.status + errors.connect + errors.read + errors.write + errors.timeout
  ))
end
