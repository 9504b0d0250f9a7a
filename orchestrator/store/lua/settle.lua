-- settle: give a lease back with what became of its call, keep the answer, count the usage, grant the slot onward.
-- KEYS 1-7 of the pool, 8 usage hash, then as ARGV says: answer, affinity
-- ARGV     1 lease id, 2 instance, 3 outcome: ok | failed | dead (refused the connection) | gone (the client left),
--          4 hold (ms): the engine works on that much longer, its slot stays taken,
--          5 failures in a row that eject, 6 ejected for (ms; doubled each time), 7 at most (ms), 8 a dead one for (ms),
--          9 has answer key, 10 the answer, 11 its time to live (ms),
--          12 has affinity key, 13 its time to live (ms), 14 usage kept for (s), then field, amount, ...
-- returns  1
-- Repeated: the record says that it has ended, so nothing is released, counted or judged twice. A lease that Redis lost
-- or that expired is counted and judged all the same: the call did happen.
local id, instance, outcome, hold = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])

local function release(record)
  local kind = record and sub(record, 1, 1)
  if kind == 'L' then
    instance = match(record, '^.\n([^\n]*)')
    if hold <= 0 then call('HINCRBY', LOAD, instance, -1) end
  else
    if kind == 'T' then call('ZREM', QUEUE, id) end
    if hold > 0 then call('HINCRBY', LOAD, instance, 1) end
  end
  if hold > 0 then
    call('HSET', RECORDS, id, 'D\n' .. instance .. '\n')
    call('ZADD', EXPIRY, now + hold, id)
  else
    finish(id)
  end
end

-- A success proves an instance well, unless it is ejected: then it only proves the past.
local function succeeded()
  local state = call('HGET', HEALTH, instance)
  if state and tonumber(match(state, ' (%d+) ')) <= now then call('HDEL', HEALTH, instance) end
end

-- A dead instance is ejected at once, shortly, even the only one. Another one after failures in a row, for longer each
-- time, and only while at most half of the pool is: failures of all are seldom the fault of each.
local function failed()
  if call('HEXISTS', SLOTS, instance) == 0 then return end
  local state = call('HGET', HEALTH, instance) or '0 0 0'
  local failures, ends, times = match(state, '^(%d+) (%d+) (%d+)$')
  failures, ends, times = failures + 1, tonumber(ends), tonumber(times)
  if outcome == 'dead' then
    ends = math.max(ends, now + tonumber(ARGV[8]))
  elseif ends <= now and failures >= tonumber(ARGV[5]) then
    look()
    if ejected + 1 <= count / 2 then
      ends = now + math.min(tonumber(ARGV[6]) * 2 ^ math.min(times, 20), tonumber(ARGV[7]))
      times = times + 1
    end
  end
  call('HSET', HEALTH, instance, string.format('%d %.0f %d', failures, ends, times))
end

local record = call('HGET', RECORDS, id)
local first = record and sub(record, 1, 1)
if first == 'X' or first == 'D' then return 1 end
release(record)
if outcome == 'ok' then
  succeeded()
  local next_key = 9
  if ARGV[9] == '1' then
    call('SET', KEYS[9], ARGV[10], 'PX', ARGV[11])
    next_key = 10
  end
  if ARGV[12] == '1' then call('SET', KEYS[next_key], instance, 'PX', ARGV[13]) end
elseif outcome ~= 'gone' then
  failed()
end
for at = 15, #ARGV, 2 do
  -- The first amount of a field starts the clock: a key lives as long as its youngest field asks.
  if call('HINCRBY', KEYS[8], ARGV[at], ARGV[at + 1]) == tonumber(ARGV[at + 1]) then call('EXPIRE', KEYS[8], ARGV[14]) end
end
if call('ZCARD', QUEUE) > 0 then
  drop_expired(2)
  grant()
end
return 1
