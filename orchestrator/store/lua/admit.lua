-- admit: answer a call from the cache, or lease it a slot, or file a ticket, or say why not. One round trip.
-- KEYS 1-7 of the pool, then as ARGV says: usage hash and answer, affinity
-- ARGV     1 lease id, 2 holder, 3 time to live (ms), 4 tickets the queue may hold, 5 longest wait (ms),
--          6 waited already (ms): a ticket that Redis lost is filed where it stood,
--          7 priority's handicap (us): a ticket stands as if it had come that much later, so that it ages,
--          8 instances it may not have, '' or '\tone\tanother\t', 9 may queue, 10 has usage and answer key,
--          11 has affinity key (key -> the instance that served this conversation last)
-- returns  {'C', bytes} | {'L', instance} | {'Q', tickets ahead} | {'R', reason, tickets waiting}
--          reasons: unknown (pool never published), empty (no instance), ejected (all of them for now), excluded (none
--          but those it may not have), busy (may not queue), full (the queue), ended (settled or withdrawn before)
-- Repeated: a lease id that is known is answered what it was answered first, or what became of its ticket since. A
-- cached answer is answered, and counted, again.
local id, holder, ttl, excluded = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[8]

local function repeated(record)
  local kind = sub(record, 1, 1)
  if kind == 'T' then
    local deadline = tonumber((select(2, match(record, TICKET))))
    call('ZADD', EXPIRY, 'XX', math.min(deadline, now + ttl), id)
    drop_expired(2)
    grant()
    record = call('HGET', RECORDS, id)
    kind = record and sub(record, 1, 1) or 'X'
    if kind == 'T' then return {'Q', call('ZRANK', QUEUE, id)} end
  end
  if kind == 'L' then
    call('ZADD', EXPIRY, 'XX', now + ttl, id)
    return {'L', match(record, '^.\n([^\n]*)')}
  end
  return {'R', 'ended', 0}
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

local function enqueue(prefer)
  local waited = tonumber(ARGV[6])
  local deadline = now + tonumber(ARGV[5])
  local fields = {'T', holder, deadline, ttl, now - waited, prefer, excluded}
  call('HSET', RECORDS, id, table.concat(fields, '\n'))
  call('ZADD', EXPIRY, math.min(deadline, now + ttl), id)
  call('ZADD', QUEUE, now_us - waited * 1000 + tonumber(ARGV[7]), id)
  return {'Q', call('ZRANK', QUEUE, id)}
end

local known_record = call('HGET', RECORDS, id)
if known_record then return repeated(known_record) end

local next_key = 8
if ARGV[10] == '1' then
  next_key = 10
  local answer = call('GET', KEYS[9])
  call('HINCRBY', KEYS[8], answer and 'cache_hits' or 'cache_misses', 1)
  if answer then return {'C', answer} end
end
local prefer = ARGV[11] == '1' and call('GET', KEYS[next_key]) or ''

drop_expired(2)
-- Tickets come first. What they leave free, they may not use: they were tried there before.
if grant() == 0 then look() end
if free > 0 then
  local at = choose(prefer, excluded)
  if at then
    take(id, holder, at, ttl)
    return {'L', ids[at]}
  end
end
local depth = call('ZCARD', QUEUE)
local why = hopeless()
if why then return {'R', why, depth} end
if ARGV[9] ~= '1' then return {'R', 'busy', depth} end
if depth >= tonumber(ARGV[4]) then return {'R', 'full', depth} end
return enqueue(prefer)
