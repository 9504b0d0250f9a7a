-- pool: what the scripts of a pool share; the loader puts it in front of each of them. It changes nothing by itself.
--
-- The keys of a pool carry one hash tag, {pool}, so that one node of a Redis Cluster has them all:
-- KEYS[1] slots    hash  instance -> slots it offers; '' -> 'token opens_at' of the last publication
-- KEYS[2] load     hash  instance -> slots taken; '' -> leases granted so far: it says whose turn it is among equals;
--                        '@' -> when the pool was last in use, see drop_expired
-- KEYS[3] health   hash  instance -> 'failures until times', only of instances in trouble
-- KEYS[4] records  hash  lease id -> what it is:
--                        'L' instance holder                                            a lease
--                        'D' instance holder        its client left, the engine still works on it: the slot is taken
--                        'T' holder deadline ttl enqueued prefer excluded               a ticket (fields split by \n)
--                        'X'                                                            ended
-- KEYS[5] expiry   zset  lease id -> when its lease, draining slot or ticket ends by itself
-- KEYS[6] queue    zset  lease id -> rank: when it was enqueued (us) + its priority's head start or handicap
-- KEYS[7] ended    zset  lease id -> when it ended; kept for a while, so that a late repeat finds it so
--
-- Times are unix ms by Redis' clock: gateways' clocks may differ. `load` changes only here, together with the record
-- that it counts, so the two cannot drift apart; the inspect script counts anew for whoever wants to see that.
local SLOTS, LOAD, HEALTH, RECORDS, EXPIRY, QUEUE, ENDED = unpack(KEYS, 1, 7)
local call, match, find, sub = redis.call, string.match, string.find, string.sub
local ENDED_KEPT_MS = 30000 -- longer than any client goes on repeating a request whose answer was lost
local AWAY_MS = 3000 -- a pool in use is renewed or swept more often than that
local RETURN_MS = 2000 -- longer than a gateway takes to reconnect and renew
local TICKET = '^T\n([^\n]*)\n(%d+)\n(%d+)\n(%d+)\n([^\n]*)\n(.*)$'

local clock = call('TIME')
local now_us = clock[1] * 1000000 + clock[2]
local now = math.floor(now_us / 1000)

-- The pool as `look` last saw it: lists in one order, an entry an instance. `room` is what may be leased now.
local ids, caps, used, room = {}, {}, {}, {}
local count, ejected, free, turn, known = 0, 0, 0, 0, false

-- Reads slots, load and health. Whoever gives slots back does so before, never between `look` and `take`.
local function look()
  count, ejected, free, known = 0, 0, 0, false
  local open = true
  local slots = call('HGETALL', SLOTS)
  for at = 1, #slots, 2 do
    if slots[at] == '' then
      known = true
      open = tonumber(match(slots[at + 1], '%d+$')) <= now
    else
      count = count + 1
      ids[count], caps[count] = slots[at], tonumber(slots[at + 1])
    end
  end
  local load = call('HMGET', LOAD, '', unpack(ids, 1, count))
  turn = tonumber(load[1]) or 0
  local barred
  local trouble = call('HGETALL', HEALTH)
  for at = 1, #trouble, 2 do
    if tonumber(match(trouble[at + 1], ' (%d+) ')) > now then
      barred = barred or {}
      barred[trouble[at]] = true
    end
  end
  for at = 1, count do
    used[at] = tonumber(load[at + 1]) or 0
    local spare = caps[at] - used[at]
    if barred and barred[ids[at]] then
      ejected = ejected + 1
      spare = 0
    end
    room[at] = (open and spare > 0) and spare or 0
    free = free + room[at]
  end
end

-- The place in the lists of the instance to lease: `prefer` if it has room, otherwise the least loaded by ratio, then
-- the one with the most room, then the next in turn. `excluded` is '' or '\tone\tanother\t'. nil: none has room.
local function choose(prefer, excluded)
  local best, best_ratio
  for step = 0, count - 1 do
    local at = (turn + step) % count + 1
    if room[at] > 0 and not (excluded ~= '' and find(excluded, '\t' .. ids[at] .. '\t', 1, true)) then
      if ids[at] == prefer then return at end
      local ratio = used[at] / caps[at]
      if not best or ratio < best_ratio or (ratio == best_ratio and room[at] > room[best]) then
        best, best_ratio = at, ratio
      end
    end
  end
  return best
end

-- Forgets what ended long ago, at most `rounds` hundreds.
local function forget_ended(rounds)
  for _ = 1, rounds do
    local old = call('ZRANGE', ENDED, '-inf', now - ENDED_KEPT_MS, 'BYSCORE', 'LIMIT', 0, 100)
    if #old == 0 then return end
    call('HDEL', RECORDS, unpack(old))
    call('ZREM', ENDED, unpack(old))
  end
end

local function take(id, holder, at, ttl)
  used[at], room[at], free, turn = used[at] + 1, room[at] - 1, free - 1, turn + 1
  call('HSET', LOAD, ids[at], used[at], '', turn, '@', now)
  call('HSET', RECORDS, id, 'L\n' .. ids[at] .. '\n' .. holder)
  call('ZADD', EXPIRY, now + ttl, id)
  if turn % 64 == 0 then forget_ended(2) end
end

local function finish(id)
  call('HSET', RECORDS, id, 'X')
  call('ZREM', EXPIRY, id)
  call('ZADD', ENDED, now, id)
end

-- Ends one record past its time; answers its kind. After an absence leases and tickets get a short while more.
local function expire(id, record, was_away)
  local kind = record and sub(record, 1, 1)
  if was_away and (kind == 'L' or kind == 'T') then
    call('ZADD', EXPIRY, now + RETURN_MS, id)
    return nil
  end
  if kind == 'L' or kind == 'D' then
    call('HINCRBY', LOAD, match(record, '^.\n([^\n]*)'), -1)
  elseif kind == 'T' then
    call('ZREM', QUEUE, id)
  end
  call('HDEL', RECORDS, id)
  call('ZREM', EXPIRY, id)
  return kind
end

-- Ends what is past its time, the oldest first: at most `rounds` hundreds, so that no call pays for a long pause.
-- Where nothing has happened to the pool for a while, it may be Redis that was away (stopped, restarted) and not the
-- holders: they are given the time to say so, otherwise slots in use would be leased once more.
local function drop_expired(rounds)
  local leases, tickets, was_away = 0, 0, nil
  repeat
    local due = call('ZRANGE', EXPIRY, '-inf', now, 'BYSCORE', 'LIMIT', 0, 100)
    if #due == 0 then break end
    if was_away == nil then
      was_away = now - (tonumber(call('HGET', LOAD, '@')) or 0) > AWAY_MS
      if was_away then call('HSET', LOAD, '@', now) end
    end
    local records = call('HMGET', RECORDS, unpack(due))
    for at = 1, #due do
      local kind = expire(due[at], records[at], was_away)
      if kind == 'L' or kind == 'D' then leases = leases + 1 end
      if kind == 'T' then tickets = tickets + 1 end
    end
    rounds = rounds - 1
  until #due < 100 or (rounds <= 0 and not was_away)
  return leases, tickets
end

local function grant_one(id, record)
  local holder, deadline, ttl, _, prefer, excluded = match(record, TICKET)
  if tonumber(deadline) <= now then return false end
  local at = choose(prefer, excluded)
  if not at then return false end
  call('ZREM', QUEUE, id)
  take(id, holder, at, tonumber(ttl))
  call('PUBLISH', 'olm:grant:' .. holder, id .. '\n' .. ids[at])
  return true
end

-- Gives free slots to the tickets in the order of the queue, and tells their holders. A ticket that may use none of
-- them (it was tried there before) is passed over. Looks anew; answers how many it granted.
local function grant()
  if call('ZCARD', QUEUE) == 0 then return 0 end
  look()
  local granted, from = 0, 0
  while free > 0 do
    local waiting = call('ZRANGE', QUEUE, from, from + 31)
    if #waiting == 0 then break end
    local records = call('HMGET', RECORDS, unpack(waiting))
    for at = 1, #waiting do
      if free > 0 and grant_one(waiting[at], records[at]) then
        granted = granted + 1
      else
        from = from + 1
      end
    end
  end
  return granted
end
