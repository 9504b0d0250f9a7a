-- pool: looking at a pool, choosing an instance, leasing it. Changes nothing by itself.
local made, queue -- see queue.lua

-- How fast each instance is. One with few samples is taken for what the others are; too small a difference is chance.
local function compare(paces)
  local sum, fastest = 0, nil
  for at = 1, count do
    local kept = paces[ids[at]] or 0
    local n = kept % 1024
    sum, measured = sum + (kept - n) / 1024 * n, measured + n
  end
  if measured == 0 then return end
  local typical = sum / measured
  for at = 1, count do
    local kept = paces[ids[at]] or 0
    local n = kept % 1024
    took[at] = ((kept - n) / 1024 * n + typical * PRIOR) / (n + PRIOR)
    if not fastest or took[at] < fastest then fastest = took[at] end
  end
  for at = 1, count do
    local ratio = (took[at] + BESIDES_US) / (fastest + BESIDES_US)
    if ratio >= UNLIKE then dear[at] = dear[at] * ratio end
  end
end

-- What instances in trouble may do. An ejected one nothing. One whose ejection is over gets one call at a time until
-- one succeeds. Any that failed a moment ago is dearer: one that fails at once would otherwise look idle.
local function bar(at, state)
  local failures, ends, times = match(state, '^(%d+) (%d+) (%d+)$')
  failures, ends = tonumber(failures), tonumber(ends)
  if ends > now then
    is_barred[at], ejected = true, ejected + 1
    if back_at == 0 or ends < back_at then back_at = ends end
    room[at] = 0
  elseif times ~= '0' then
    room[at] = math.min(room[at], math.max(0, 1 - used[at]))
  end
  if now - ends < FORGIVEN_MS then is_failing[at], dear[at] = true, 1 + failures end
end

-- Reads slots, load and health. Whoever gives slots back does so before, never between `look` and `take`.
local function look()
  count, ejected, free, known, back_at, measured = 0, 0, 0, false, 0, 0
  local open, paces = true, nil
  local slots = call('HGETALL', SLOTS)
  for at = 1, #slots, 2 do
    local field = slots[at]
    if field == '' then
      known = true
      open = tonumber(match(slots[at + 1], '%d+$')) <= now
    elseif sub(field, 1, 2) == '\tp' then
      paces = paces or {}
      paces[sub(field, 3)] = tonumber(slots[at + 1])
    else
      count = count + 1
      ids[count], caps[count] = field, tonumber(slots[at + 1])
    end
  end
  local load = call('HMGET', LOAD, '', '\tv', '\tk' .. whose, unpack(ids, 1, count))
  turn, virtual, owed = tonumber(load[1]) or 0, tonumber(load[2]) or 0, tonumber(load[3]) or 0
  local troubles
  local trouble = call('HGETALL', HEALTH)
  for at = 1, #trouble, 2 do
    troubles = troubles or {}
    troubles[trouble[at]] = trouble[at + 1]
  end
  for at = 1, count do
    used[at], dear[at], is_barred[at], is_failing[at] = tonumber(load[at + 3]) or 0, 1, false, false
    local spare = caps[at] - used[at]
    room[at] = (open and spare > 0) and spare or 0
    if troubles and troubles[ids[at]] then bar(at, troubles[ids[at]]) end
    free = free + room[at]
  end
  if paces then compare(paces) end
end

-- The place in the lists of the instance to lease: `prefer` if it has room and no trouble, otherwise the cheapest: the
-- fastest and least loaded by ratio; then the one with the most room, then the next in turn. `excluded` is '' or
-- '\tone\tanother\t'. nil: none has room.
local function choose(prefer, excluded)
  local best, best_cost
  for step = 0, count - 1 do
    local at = (turn + step) % count + 1
    if room[at] > 0 and not (excluded ~= '' and find(excluded, '\t' .. ids[at] .. '\t', 1, true)) then
      if ids[at] == prefer and not is_failing[at] then return at end
      local cost = dear[at] * (1 + used[at] / caps[at])
      if not best or cost < best_cost or (cost == best_cost and room[at] > room[best]) then
        best, best_cost = at, cost
      end
    end
  end
  return best
end

-- Leases a slot of `ids[at]` to a call of an API key that was charged `tokens` so far. The prompt is charged at once,
-- so that a burst does not pass everybody before its first call has ended. Answers what the key is charged now.
local function take(id, holder, at, ttl, key, tokens, estimate)
  local charge = math.max(1, estimate)
  used[at], room[at], free, turn = used[at] + 1, room[at] - 1, free - 1, turn + 1
  virtual = math.max(virtual, tokens)
  call('HSET', LOAD, ids[at], used[at], '', turn, '@', now, '\tv', virtual, '\tk' .. key, tokens + charge)
  call('HSET', RECORDS, id, 'L\n' .. ids[at] .. '\n' .. holder .. '\n' .. now .. '\n' .. charge .. '\n' .. key)
  call('ZADD', EXPIRY, now + ttl, id)
  if key == whose then owed = tokens + charge end
  if turn % 64 == 0 then
    queue().forget_ended(2)
    queue().fade()
  end
  return tokens + charge
end

local function finish(id)
  call('HSET', RECORDS, id, 'X')
  call('ZREM', EXPIRY, id)
  call('ZADD', ENDED, now, id)
end
