-- queue: who waits for a slot of a pool, and who has the next one. The loader puts it behind pool.lua.
--
-- Priority class first: 0 before 1 before 2. A ticket rises one class for each `step` that it has waited, so that none
-- waits for ever. Within a class the API key that was charged the fewest tokens, where a token of an answer counts two
-- of a prompt; a key that comes back from having nothing to wait for is lifted to the least of those that wait: who did
-- not ask has saved nothing up (the virtual token counter of Sheng et al., "Fairness in Serving Large Language
-- Models", OSDI 2024). Within a key first come, first served.
--
-- A flow is a class and a key: 'class\tkey'. A ticket's place is 'class\tkey\trank\tlease id'; rank is when it was
-- enqueued (us) and one step more for each class that it began below 0, 16 digits, so that places sort as ranks do.
-- KEYS[6] queue    zset  place, all with score 0: those of a flow lie together, the first come first
-- KEYS[8] turns    zset  flow with tickets -> class * CLASS + tokens its key was charged
-- KEYS[9] rises    zset  lease id of a ticket below class 0 -> when it rises to the next (us)
-- What is done with tickets, and now and then. Defined where it is needed: it would cost each call of a pool where
-- nobody waits some us.
function queue()
  if made then return made end

  local function first_of(flow, from, n)
    return call('ZRANGE', QUEUE, '[' .. flow .. '\t', '(' .. flow .. '\n', 'BYLEX', 'LIMIT', from, n)
  end

  -- A key was charged: its flows' turns come later, or sooner.
  local function reorder(key, tokens)
    local last = call('ZRANGE', TURNS, -1, -1, 'WITHSCORES')[2]
    for class = 0, last and math.floor(last / CLASS) or -1 do
      call('ZADD', TURNS, 'XX', string.format('%.0f', class * CLASS + tokens), class .. '\t' .. key)
    end
  end

  -- What a key counts as when it joins a class: what it was charged, or the least of those that wait there; nobody
  -- waiting, the count of the key served last.
  local function joining(class, key)
    local tokens = load_of('\tk' .. key)
    local bounds = {string.format('%.0f', class * CLASS), string.format('(%.0f', (class + 1) * CLASS)}
    local least = call('ZRANGE', TURNS, bounds[1], bounds[2], 'BYSCORE', 'LIMIT', 0, 1, 'WITHSCORES')[2]
    return math.max(tokens, least and least - class * CLASS or load_of('\tv')), tokens
  end

  -- The tokens that a flow's turn is decided by.
  local function tokens_of(flow, class, key)
    local turn_of = call('ZSCORE', TURNS, flow)
    if turn_of then return turn_of - class * CLASS end
    return (joining(class, key))
  end

  local function arrive(place, step, rises_at)
    local flow, class, key, _, id = match(place, PLACE)
    class = tonumber(class)
    if not call('ZSCORE', TURNS, flow) then
      local tokens, before = joining(class, key)
      call('ZADD', TURNS, string.format('%.0f', class * CLASS + tokens), flow)
      if tokens ~= before then
        set_load('\tk' .. key, tokens)
        reorder(key, tokens)
      end
    end
    call('ZADD', QUEUE, 0, place)
    if class > 0 and step > 0 then call('ZADD', RISES, string.format('%.0f', rises_at), id) end
  end

  local function leave(record)
    local place = match(record, PLACE_OF)
    local flow, class, _, _, id = match(place, PLACE)
    call('ZREM', QUEUE, place)
    if #first_of(flow, 0, 1) == 0 then call('ZREM', TURNS, flow) end
    if class ~= '0' then call('ZREM', RISES, id) end
  end

  -- Raises the tickets that have waited long enough, at most a hundred a time.
  local function rise()
    local due = call('ZRANGE', RISES, '-inf', string.format('%.0f', now_us), 'BYSCORE', 'LIMIT', 0, 100, 'WITHSCORES')
    for at = 1, #due, 2 do
      local record = call('HGET', RECORDS, due[at])
      local holder, deadline, ttl, enqueued, step, estimate, place, prefer, excluded = match(record, TICKET)
      local _, class, key, rank, id = match(place, PLACE)
      step = tonumber(step)
      local risen = math.min(tonumber(class), 1 + math.floor((now_us - due[at + 1]) / step))
      leave(record)
      place = table.concat({string.format('%d', class - risen), key, rank, id}, '\t')
      local every = string.format('%.0f', step)
      local fields = {'T', holder, deadline, ttl, enqueued, every, estimate, place, prefer, excluded}
      call('HSET', RECORDS, id, table.concat(fields, '\n'))
      arrive(place, step, due[at + 1] + risen * step)
    end
  end

  -- How many tickets will be granted before the one at `place`, whose key was charged `tokens`, if all calls cost what
  -- calls cost lately. Each grant moves a key back by that much: of another key as many go first as keep it in front.
  local function position(place, tokens)
    local flow, class = match(place, PLACE)
    local ahead = call('ZLEXCOUNT', QUEUE, '[' .. flow .. '\t', '(' .. place)
    local turns = call('ZRANGE', TURNS, 0, LOOKED_AT - 1, 'WITHSCORES')
    if #turns == 0 or (#turns == 2 and turns[1] == flow) then return ahead end
    local each = math.max(1, load_of('\tw'))
    local total = ahead
    for at = 1, #turns, 2 do
      local other = turns[at]
      local other_class = tonumber(sub(other, 1, 1))
      if other ~= flow and other_class <= tonumber(class) then
        local waiting = call('ZLEXCOUNT', QUEUE, '[' .. other .. '\t', '(' .. other .. '\n')
        if other_class == tonumber(class) then
          local before = (tokens - (turns[at + 1] - other_class * CLASS)) / each + ahead
          local whole = math.ceil(before)
          if whole == before and other < flow then whole = whole + 1 end
          waiting = math.max(0, math.min(waiting, whole))
        end
        total = total + waiting
      end
    end
    return total
  end

  local function grant_one(place, tokens)
    local _, _, key, _, id = match(place, PLACE)
    local record = call('HGET', RECORDS, id)
    local holder, deadline, ttl, _, _, estimate, _, prefer, excluded = match(record, TICKET)
    if tonumber(deadline) <= now then return false end
    local at = choose(prefer, excluded)
    if not at then return false end
    leave(record)
    reorder(key, take(id, holder, at, tonumber(ttl), key, tokens, tonumber(estimate)))
    call('PUBLISH', 'olm:grant:' .. holder, id .. '\n' .. ids[at])
    return true
  end

  -- Grants the first ticket of a flow that can use a free slot. One that can use none of them (it was tried there
  -- before) is passed over, and not asked again: slots only become fewer.
  local function grant_first(flow, tokens, passed)
    local n = 1
    while true do
      local waiting = first_of(flow, passed[flow] or 0, n)
      for at = 1, #waiting do
        if grant_one(waiting[at], tokens) then return true end
        passed[flow] = (passed[flow] or 0) + 1
      end
      if #waiting < n then return false end
      n = 32
    end
  end

  -- Gives free slots, by what was weighed, to the tickets whose turn it is, and tells their holders; answers how many it
  -- granted.
  local function grant_all()
    rise()
    local granted, from, passed = 0, 0, {}
    while free > 0 do
      local flow = call('ZRANGE', TURNS, from, from, 'WITHSCORES')
      if #flow == 0 then break end
      if grant_first(flow[1], flow[2] - sub(flow[1], 1, 1) * CLASS, passed) then
        granted = granted + 1
      else
        from = from + 1 -- it stays in front of those yet to be asked: its count does not change
      end
    end
    write()
    return granted
  end

  -- The ms until a ticket with so many ahead of it has a slot, as fast as slots came free lately; -1: not known yet.
  local function expected_ms(ahead)
    if measured < ENOUGH then return -1 end
    local rate = 0
    for at = 1, count do
      if not is_barred[at] then rate = rate + caps[ids[at]] / math.max(took[at], 1) end
    end
    return rate > 0 and math.ceil((ahead + 1) / rate / 1000) or -1
  end

  -- Ends one record past its time; answers its kind. After an absence leases and tickets get a short while more.
  local function expire(id, record, was_away)
    local kind = record and sub(record, 1, 1)
    if was_away and (kind == 'L' or kind == 'T') then
      call('ZADD', EXPIRY, now + RETURN_MS, id)
      if kind == 'L' then was_away[match(record, '^L\n[^\n]*\n([^\n]*)')] = true end
      return nil
    end
    if kind == 'L' or kind == 'D' then
      add_load(match(record, '^.\n([^\n]*)'), -1)
    elseif kind == 'T' then
      leave(record)
    end
    call('HDEL', RECORDS, id)
    call('ZREM', EXPIRY, id)
    return kind
  end

  -- Redis' clock was set back by so many ms: what was to end in a while would end as much later, and whatever a gateway
  -- that is gone has left would stand so long.
  local function set_back(by)
    for key, unit in pairs({[EXPIRY] = 1, [ENDED] = 1, [RISES] = 1000}) do
      local all = call('ZRANGE', key, 0, -1, 'WITHSCORES')
      for at = 1, #all, 2 do call('ZADD', key, string.format('%.0f', all[at + 1] - by * unit), all[at]) end
    end
    for _, place in ipairs(call('ZRANGE', QUEUE, 0, -1)) do
      local id = match(place, '([^\t]*)$')
      local holder, deadline, rest = match(call('HGET', RECORDS, id) or '', '^T\n([^\n]*)\n(%d+)\n(.*)$')
      if holder then
        call('HSET', RECORDS, id, table.concat({'T', holder, string.format('%.0f', deadline - by), rest}, '\n'))
      end
    end
    local trouble = call('HGETALL', HEALTH)
    for at = 1, #trouble, 2 do
      local failures, ends, times = match(trouble[at + 1], '^(%d+) (%d+) (%d+)$')
      local state = string.format('%s %.0f %s', failures, math.max(0, ends - by), times)
      call('HSET', HEALTH, trouble[at], state)
      if troubles[trouble[at]] then troubles[trouble[at]] = state end
    end
    local token, opens_at = match(call('HGET', SLOTS, '') or '', '^(%d+) (%d+)$')
    if token then
      call('HSET', SLOTS, '', string.format('%s %.0f', token, math.max(0, opens_at - by)))
      is_open = opens_at - by <= now
    end
  end

  -- Forgets who ended long ago: those before, and what ended since has become that. A clock that was set back by more
  -- than chance begins anew, too.
  local function forget_gone()
    local age = now - load_of('\te')
    if age < ENDED_KEPT_MS and age > -BACK_MS then return end
    call('UNLINK', GONE_BEFORE)
    if call('EXISTS', GONE) == 1 then call('RENAME', GONE, GONE_BEFORE) end
    set_load('\te', now)
  end

  -- Forgets what a version before has ended, at most `rounds` hundreds.
  local function forget_ended(rounds)
    for _ = 1, rounds do
      local old = call('ZRANGE', ENDED, '-inf', now - ENDED_KEPT_MS, 'BYSCORE', 'LIMIT', 0, 100)
      if #old == 0 then return end
      call('HDEL', RECORDS, unpack(old))
      call('ZREM', ENDED, unpack(old))
    end
  end

  -- Lets measurements fade that are not made anew: what was slow once, and is left alone for it, is tried again.
  local function fade()
    for at = 1, count do
      local kept = paces[ids[at]] or 0
      local n = kept % 1024
      if n > 0 then paces[ids[at]], is_paced[ids[at]] = kept - math.min(n, 1 + math.floor(n / 16)), true end
    end
  end

  made = {
    reorder = reorder, tokens_of = tokens_of, position = position,
    arrive = arrive, leave = leave, grant_all = grant_all,
    expected_ms = expected_ms, expire = expire, set_back = set_back, forget_gone = forget_gone,
    forget_ended = forget_ended, fade = fade,
  }
  return made
end

-- Ends what is past its time, the oldest first: at most `rounds` hundreds, so that no call pays for a long pause.
-- Where nothing has happened to the pool for a while, it may be Redis that was away (stopped, restarted) and not the
-- holders: they are told, and given the time to say so; otherwise slots in use would be leased once more.
local function drop_expired(rounds)
  local leases, tickets, was_away = 0, 0, nil
  local behind = load_of('@') - now
  if behind > BACK_MS then
    queue().set_back(behind)
    set_load('@', now)
  end
  if call('ZCOUNT', EXPIRY, '-inf', now) == 0 then return 0, 0 end
  repeat
    local due = call('ZRANGE', EXPIRY, '-inf', now, 'BYSCORE', 'LIMIT', 0, 100)
    if #due == 0 then break end
    if was_away == nil then
      was_away = now - load_of('@') > AWAY_MS and {}
      if was_away then set_load('@', now) end
    end
    local records = call('HMGET', RECORDS, unpack(due))
    for at = 1, #due do
      local kind = queue().expire(due[at], records[at], was_away)
      if kind == 'L' or kind == 'D' then leases = leases + 1 end
      if kind == 'T' then tickets = tickets + 1 end
    end
    rounds = rounds - 1
  until #due < 100 or (rounds <= 0 and not was_away)
  -- Those that did not see Redis go, because its clock alone went forward, would renew in their own time, and too late.
  for holder in pairs(was_away or {}) do call('PUBLISH', 'olm:grant:' .. holder, '\n') end
  return leases, tickets
end

-- Gives free slots to who waits. Looks anew where anybody does; answers how many it granted, and how many still wait.
local function grant()
  local depth = call('ZCARD', QUEUE)
  if depth == 0 then return 0, 0 end
  look()
  local granted = queue().grant_all()
  return granted, depth - granted
end
