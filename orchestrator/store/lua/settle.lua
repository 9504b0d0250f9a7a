-- settle: give a lease back with what became of its call, keep the answer, count the usage, grant the slot onward.
-- KEYS 1-9 of the pool, 10 usage hash, then as ARGV says: answer, affinity
-- ARGV     1 lease id, 2 instance, 3 outcome: ok | failed | dead (refused the connection) | gone (the client left),
--          4 hold (ms): the engine works on that much longer, its slot stays taken,
--          5 failures in a row that eject, 6 ejected for (ms; doubled each time), 7 at most (ms), 8 a dead one for (ms),
--          9 has answer key, 10 the answer, 11 its time to live (ms),
--          12 has affinity key, 13 its time to live (ms),
--          14 API key, 15 tokens of prompt and answer, an answer's counted twice (-1: nobody knows),
--          16 usage kept for (s), then field, amount, ...
-- returns  1
-- Repeated: the record says that it has ended, so nothing is released, counted or judged twice. A lease that Redis lost
-- or that expired is counted and judged all the same: the call did happen.
local id, instance, outcome, hold = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local key, tokens = ARGV[14], tonumber(ARGV[15])

-- The moving mean of how long calls hold their slot there, with one more, which counts as ten usual ones at most; and of
-- what calls are charged. Once there are enough, one of four will do: who it is, the clock decides.
local function measure(since)
  local seen = call('HMGET', SLOTS, instance, '\tp' .. instance)
  local kept = tonumber(seen[2]) or 0
  local n = kept % 1024
  if not seen[1] or (n >= ENOUGH and now_us % 4 ~= 0) then return end
  local mean, held = (kept - n) / 1024, math.max(0, now - since) * 1000
  if n >= PRIOR then held = math.min(held, 10 * mean) end
  n = math.min(n + 1, SAMPLES)
  call('HSET', SLOTS, '\tp' .. instance, math.floor(mean + (held - mean) / n + 0.5) * 1024 + n)
  if tokens >= 0 then
    local usual = tonumber(call('HGET', LOAD, '\tw')) or tokens
    call('HSET', LOAD, '\tw', math.floor(usual + (tokens - usual) / 32 + 0.5))
  end
end

-- Charges the key what its call has used, beyond what was charged when it began; answers what it is charged now.
local function charge(before)
  if tokens < 0 and (outcome == 'failed' or outcome == 'dead') then tokens = 0 end
  if tokens < 0 then return tonumber(call('HGET', LOAD, '\tk' .. key)) or 0 end
  local after = call('HINCRBY', LOAD, '\tk' .. key, tokens - before)
  if after >= 0 then return after end
  call('HSET', LOAD, '\tk' .. key, 0)
  return 0
end

-- Gives the slot back; answers what the key is charged now.
local function release(record)
  local kind = record and sub(record, 1, 1)
  local charged = 0
  if kind == 'L' then
    local leased, since, paid, whose_slot = match(record, LEASE)
    instance = leased or match(record, '^.\n([^\n]*)')
    if since then
      key, charged = whose_slot, paid
      if outcome == 'ok' then measure(since) end
    end
    if hold <= 0 then call('HINCRBY', LOAD, instance, -1) end
  else
    if kind == 'T' then queue().leave(record) end
    if hold > 0 then call('HINCRBY', LOAD, instance, 1) end
  end
  if hold > 0 then
    call('HSET', RECORDS, id, 'D\n' .. instance .. '\n')
    call('ZADD', EXPIRY, now + hold, id)
  else
    finish(id)
  end
  return charge(charged)
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
  elseif ends <= now then
    ends = now
    local is_due = failures >= tonumber(ARGV[5])
    if is_due then look() end
    if is_due and ejected + 1 <= count / 2 then
      ends = now + math.min(tonumber(ARGV[6]) * 2 ^ math.min(times, 20), tonumber(ARGV[7]))
      times = times + 1
    end
  end
  call('HSET', HEALTH, instance, string.format('%d %.0f %d', failures, ends, times))
end

local record = call('HGET', RECORDS, id)
local first = record and sub(record, 1, 1)
if first == 'X' or first == 'D' then return 1 end
local charged = release(record)
if outcome == 'ok' then
  succeeded()
  local next_key = 11
  if ARGV[9] == '1' then
    call('SET', KEYS[11], ARGV[10], 'PX', ARGV[11])
    next_key = 12
  end
  if ARGV[12] == '1' then call('SET', KEYS[next_key], instance, 'PX', ARGV[13]) end
elseif outcome ~= 'gone' then
  failed()
end
for at = 17, #ARGV, 2 do
  -- The first amount of a field starts the clock: a key lives as long as its youngest field asks.
  local amount = tonumber(ARGV[at + 1])
  if call('HINCRBY', KEYS[10], ARGV[at], amount) == amount then call('EXPIRE', KEYS[10], ARGV[16]) end
end
if call('ZCARD', QUEUE) > 0 then
  queue().reorder(key, charged)
  drop_expired(2)
  grant()
end
return 1
