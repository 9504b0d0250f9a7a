-- admit: answer a call from the cache, or lease it a slot, or file a ticket, or say why not. One round trip.
-- KEYS 1-9 of the pool, then as ARGV says: usage hash and answer, affinity
-- ARGV     1 lease id, 2 holder, 3 time to live (ms), 4 tickets the queue may hold, 5 longest wait (ms),
--          6 waited already (ms): a ticket that Redis lost is filed where it stood,
--          7 priority class, 0 to 9; 8 waiting by which a ticket rises one class (us),
--          9 API key, 10 tokens of the prompt, as far as one can tell,
--          11 instances it may not have, '' or '\tone\tanother\t', 12 may queue, 13 has usage and answer key,
--          14 has affinity key (key -> the instance that served this conversation last)
-- returns  {'C', bytes} | {'L', instance} | {'Q', tickets ahead, expected wait} |
--          {'R', reason, tickets waiting, wait before it may be otherwise}; waits in ms, -1: nobody can tell
--          reasons: unknown (pool never published), empty (no instance), ejected (all of them for now), excluded (none
--          but those it may not have), busy (may not queue), full (the queue), late (would be granted too late, by
--          far), ended (settled or withdrawn before)
-- Repeated: a lease id that is known is answered what it was answered first, or what became of its ticket since. A
-- cached answer is answered, and counted, again.
local id, holder, ttl, excluded = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[11]
local limit, waited_us, estimate = tonumber(ARGV[5]), tonumber(ARGV[6]) * 1000, tonumber(ARGV[10])
whose = ARGV[9]

local function repeated(record)
  local kind = sub(record, 1, 1)
  if kind == 'T' then
    local deadline = tonumber((select(2, match(record, TICKET))))
    call('ZADD', EXPIRY, 'XX', math.min(deadline, now + ttl), id)
    drop_expired(2)
    grant()
    record = call('HGET', RECORDS, id)
    kind = record and sub(record, 1, 1) or 'X'
    if kind == 'T' then
      local place = match(record, PLACE_OF)
      local flow, class, key = match(place, PLACE)
      local ahead = queue().position(place, queue().tokens_of(flow, class, key))
      return {'Q', ahead, queue().expected_ms(ahead)}
    end
  end
  if kind == 'L' then
    call('ZADD', EXPIRY, 'XX', now + ttl, id)
    return {'L', match(record, '^.\n([^\n]*)')}
  end
  return {'R', 'ended', 0, -1}
end

-- Why nothing can serve this call, however long it waits; nil where waiting helps.
local function hopeless()
  if not known then return 'unknown' end
  if count == 0 then return 'empty' end
  if ejected == count then return 'ejected' end
  if excluded == '' then return nil end
  for at = 1, count do
    if not find(excluded, '\t' .. ids[at] .. '\t', 1, true) then return nil end
  end
  return 'excluded'
end

local function enqueue(prefer, depth)
  local step, below = tonumber(ARGV[8]), tonumber(ARGV[7])
  local class = step > 0 and math.max(0, below - math.floor(waited_us / step)) or 0
  local came_us = now_us - waited_us
  local flow = string.format('%d\t%s', class, whose)
  local place = string.format('%s\t%016.0f\t%s', flow, came_us + below * step, id)
  local ahead = queue().position(place, queue().tokens_of(flow, class, whose))
  local wait = queue().expected_ms(ahead)
  -- The foretelling is rough: those ahead may leave, their calls may be short. Slots come free at random, so where twice
  -- as many tickets and two more are ahead than are to be granted in time, less than one in a hundred is granted after
  -- all (Poisson): such a wait is for nothing.
  local in_time = wait > 0 and limit * (ahead + 1) / wait
  if in_time and waited_us == 0 and ahead + 1 > 2 * in_time + 2 then return {'R', 'late', depth, wait - limit} end
  local deadline = now + limit
  local came, every = math.floor(came_us / 1000), string.format('%.0f', step)
  local fields = {'T', holder, deadline, ttl, came, every, estimate, place, prefer, excluded}
  call('HSET', RECORDS, id, table.concat(fields, '\n'))
  call('ZADD', EXPIRY, math.min(deadline, now + ttl), id)
  queue().arrive(place, step, came_us + (below - class + 1) * step)
  return {'Q', ahead, wait}
end

local known_record = call('HGET', RECORDS, id)
if known_record then return repeated(known_record) end

local next_key = 10
if ARGV[13] == '1' then
  next_key = 12
  local answer = call('GET', KEYS[11])
  call('HINCRBY', KEYS[10], answer and 'cache_hits' or 'cache_misses', 1)
  if answer then return {'C', answer} end
end
local prefer = ARGV[14] == '1' and call('GET', KEYS[next_key]) or ''

drop_expired(2)
-- Tickets come first. What they leave free, they may not use: they were tried there before.
local _, depth = grant()
if depth == 0 then look() end
if free > 0 then
  local at = choose(prefer, excluded)
  if at then
    local tokens = take(id, holder, at, ttl, whose, math.max(owed, virtual), estimate)
    if depth > 0 then queue().reorder(whose, tokens) end
    return {'L', ids[at]}
  end
end
local why = hopeless()
if why then return {'R', why, depth, why == 'ejected' and back_at - now or -1} end
if ARGV[12] ~= '1' then return {'R', 'busy', depth, queue().expected_ms(depth)} end
if depth >= tonumber(ARGV[4]) then return {'R', 'full', depth, queue().expected_ms(depth)} end
return enqueue(prefer, depth)
