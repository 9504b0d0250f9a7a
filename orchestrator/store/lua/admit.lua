-- admit: lease a call a slot, or file a ticket, or say why not. One of calls.lua's.
-- answers  {'L', instance} | {'Q', tickets ahead, expected wait} |
--          {'R', reason, tickets waiting, wait before it may be otherwise}; waits in ms, -1: nobody can tell
--          reasons: unknown (pool never published), empty (no instance), ejected (all that it may have, for now), excluded
--          (none but those it may not have), busy (may not queue), full (the queue), late (would be granted too late, by
--          far), ended (settled or withdrawn before)
-- A lease id that is known is answered what it was answered first, or what became of its ticket since.
local function repeated(id, record)
  local kind = sub(record, 1, 1)
  if kind == 'T' then
    local deadline = tonumber((select(2, match(record, TICKET))))
    call('ZADD', EXPIRY, 'XX', math.min(deadline, now + TTL), id)
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
    call('ZADD', EXPIRY, 'XX', now + TTL, id)
    return {'L', match(record, '^.\n([^\n]*)')}
  end
  return {'R', 'ended', 0, -1}
end

-- Why nothing can serve this call, however long it waits; nil where waiting helps.
local function hopeless(excluded)
  if not known then return 'unknown' end
  if count == 0 then return 'empty' end
  if ejected == count then return 'ejected' end
  if excluded == '' then return nil end
  local why = 'excluded'
  for at = 1, count do
    if not find(excluded, '\t' .. ids[at] .. '\t', 1, true) then
      if not is_barred[at] then return nil end
      why = 'ejected'
    end
  end
  return why
end

-- The part of the room, and of the wait, that is a class' own: the last ones are turned away while the first still find
-- a place, long before the queue is full for all.
local function share(below)
  return 1 - below / 20
end

local function enqueue(id, limit, waited_us, below, key, estimate, excluded, prefer)
  local class = STEP > 0 and math.max(0, below - math.floor(waited_us / STEP)) or 0
  local came_us = now_us - waited_us
  local flow = string.format('%d\t%s', class, key)
  local place = string.format('%s\t%016.0f\t%s', flow, came_us + below * STEP, id)
  local ahead = queue().position(place, queue().tokens_of(flow, class, key))
  local wait = queue().expected_ms(ahead)
  -- The foretelling is rough: those ahead may leave, their calls may be short. Slots come free at random, so where twice
  -- as many tickets and two more are ahead than are to be granted in time, less than one in a hundred is granted after
  -- all (Poisson): such a wait is for nothing.
  local in_time = wait > 0 and limit * share(below) * (ahead + 1) / wait
  if in_time and waited_us == 0 and ahead + 1 > 2 * in_time + 2 then
    return {'R', 'late', waiting, math.max(0, wait - limit)}
  end
  local deadline = now + limit
  local came, every = math.floor(came_us / 1000), string.format('%.0f', STEP)
  local fields = {'T', HOLDER, deadline, TTL, came, every, estimate, place, prefer, excluded}
  call('HSET', RECORDS, id, table.concat(fields, '\n'))
  call('ZADD', EXPIRY, math.min(deadline, now + TTL), id)
  queue().arrive(place, STEP, came_us + (below - class + 1) * STEP)
  waiting = waiting + 1
  return {'Q', ahead, wait}
end

local function admit(id, most, limit, waited, below, key, estimate, excluded, may_queue, prefer)
  if free > 0 then
    local at = choose(prefer, excluded)
    if at then
      local tokens = math.max(load_of('\tk' .. key), load['\tv'])
      tokens = take(id, HOLDER, at, TTL, key, tokens, estimate)
      if waiting > 0 then queue().reorder(key, tokens) end
      return {'L', ids[at]}
    end
  end
  write()
  local why = hopeless(excluded)
  if why then return {'R', why, waiting, why == 'ejected' and back_at - now or -1} end
  if may_queue ~= 1 then return {'R', 'busy', waiting, queue().expected_ms(waiting)} end
  if waiting >= (waited == 0 and most * share(below) or most) then return {'R', 'full', waiting, queue().expected_ms(waiting)} end
  return enqueue(id, limit, waited * 1000, below, key, estimate, excluded, prefer)
end
