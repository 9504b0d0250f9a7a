-- pool: looking at a pool, choosing an instance, leasing it. What changes is kept here and written once, by `write`: every
-- script ends with it.
local made, queue -- see queue.lua

local function write()
  if not is_dirty then return end
  is_dirty = false
  local fields, n = {}, 0
  for field in pairs(is_loaded) do
    fields[n + 1], fields[n + 2] = field, load[field]
    n = n + 2
  end
  if n > 0 then
    call('HSET', LOAD, unpack(fields, 1, n))
    is_loaded = {}
  end
  for instance in pairs(is_paced) do call('HSET', SLOTS, '\tp' .. instance, paces[instance]) end
  is_paced = {}
  if new_records[1] then call('HSET', RECORDS, unpack(new_records)) end
  if new_ends[1] then call('ZADD', EXPIRY, unpack(new_ends)) end
  if gone[1] then
    call('HDEL', RECORDS, unpack(gone))
    call('ZREM', EXPIRY, unpack(gone))
    call('SADD', GONE, unpack(gone))
  end
  new_records, new_ends, gone = {}, {}, {}
end

local function load_of(field)
  local known_load = load[field]
  if not known_load then
    known_load = tonumber(call('HGET', LOAD, field)) or 0
    load[field] = known_load
  end
  return known_load
end

local function set_load(field, value)
  load[field], is_loaded[field], is_dirty = value, true, true
end

local function add_load(field, change)
  set_load(field, load_of(field) + change)
end

-- A lease, or a slot that drains, and when it ends by itself.
local function keep(id, record, ends)
  local n, m = #new_records, #new_ends
  new_records[n + 1], new_records[n + 2] = id, record
  new_ends[m + 1], new_ends[m + 2] = ends, id
  is_dirty = true
end

local function finish(id)
  gone[#gone + 1], is_dirty = id, true
end

-- The records of leases and tickets; 'X' of those that have ended.
local function records_of(names)
  local records, unknown, places = call('HMGET', RECORDS, unpack(names)), {}, {}
  for at = 1, #names do
    if not records[at] then unknown[#unknown + 1], places[#places + 1] = names[at], at end
  end
  for _, key in ipairs(unknown[1] and {GONE, GONE_BEFORE} or {}) do
    local is_gone = call('SMISMEMBER', key, unpack(unknown))
    for at = 1, #unknown do
      if is_gone[at] == 1 then records[places[at]] = 'X' end
    end
  end
  return records
end

-- How fast each instance is. One with few samples is taken for what the others are; too small a difference is chance.
local function compare()
  local sum, fastest = 0, nil
  for at = 1, count do
    local kept = paces[ids[at]]
    if kept then
      local n = kept % 1024
      sum, measured = sum + (kept - n) / 1024 * n, measured + n
    end
  end
  if measured == 0 then return end
  local typical = sum / measured
  took = {}
  for at = 1, count do
    local kept = paces[ids[at]] or 0
    local n = kept % 1024
    took[at] = ((kept - n) / 1024 * n + typical * PRIOR) / (n + PRIOR)
    if not fastest or took[at] < fastest then fastest = took[at] end
  end
  for at = 1, count do
    local ratio = (took[at] + BESIDES_US) / (fastest + BESIDES_US)
    if ratio >= UNLIKE then dear[at] = (dear[at] or 1) * ratio end
  end
end

-- What instances in trouble may do. An ejected one nothing. One whose ejection is over gets one call at a time until
-- one succeeds, then twice as many with each that does: what is just back is not given all at once. Any that failed a
-- moment ago is dearer: one that fails at once would otherwise look idle.
local function bar(at, state)
  local failures, ends, times = match(state, '^(%d+) (%d+) (%d+)$')
  failures, ends = tonumber(failures), tonumber(ends)
  if ends > now then
    is_barred[at], ejected = true, ejected + 1
    if back_at == 0 or ends < back_at then back_at = ends end
    room[at] = 0
  elseif failures == 0 then
    if now - ends < FORGIVEN_MS then room[at] = math.min(room[at], math.max(0, times - load[ids[at]])) end
    return
  elseif times ~= '0' then
    room[at] = math.min(room[at], math.max(0, 1 - load[ids[at]]))
  end
  if now - ends < FORGIVEN_MS then is_failing[at], dear[at] = true, 1 + failures end
end

-- Reads slots, health and load, of the latter what concerns these API keys.
local function read(callers)
  write()
  count, known, is_open, ids, caps, paces, troubles = 0, false, true, {}, {}, {}, {}
  local slots = call('HGETALL', SLOTS)
  local fields = {'', '\tv', '\tw', '@'}
  for at = 1, #slots, 2 do
    local field = slots[at]
    if field == '' then
      known = true
      is_open = tonumber(match(slots[at + 1], '%d+$')) <= now
    elseif sub(field, 1, 2) == '\tp' then
      paces[sub(field, 3)] = tonumber(slots[at + 1])
    else
      count = count + 1
      ids[count], caps[field], fields[count + 4] = field, tonumber(slots[at + 1]), field
    end
  end
  for caller in pairs(callers) do fields[#fields + 1] = '\tk' .. caller end
  local values = call('HMGET', LOAD, unpack(fields))
  load = {[''] = 0, ['\tv'] = 0, ['\tw'] = 0, ['@'] = 0} -- as large at once: what is made larger is made anew
  for at = 1, #fields do load[fields[at]] = tonumber(values[at]) or 0 end
  local trouble = call('HGETALL', HEALTH)
  for at = 1, #trouble, 2 do troubles[trouble[at]] = trouble[at + 1] end
end

-- What may be leased where, by what was read and has changed since.
local function weigh()
  ejected, free, back_at, measured, room, dear, is_barred, is_failing = 0, 0, 0, 0, {}, {}, {}, {}
  for at = 1, count do
    local id = ids[at]
    local spare = caps[id] - load[id]
    room[at] = (is_open and spare > 0) and spare or 0
    if troubles[id] then bar(at, troubles[id]) end
    free = free + room[at]
  end
  if next(paces) then compare() end
end

local function look()
  read({})
  weigh()
end

-- The place in the lists of the instance to lease: `prefer` if it has room and no trouble, otherwise the cheapest: the
-- fastest and least loaded by ratio; then the one with the most room, then the next in turn. `excluded` is '' or
-- '\tone\tanother\t'. nil: none has room.
local function choose(prefer, excluded)
  local best, best_cost
  local turn = load['']
  for step = 0, count - 1 do
    local at = (turn + step) % count + 1
    if room[at] > 0 and not (excluded ~= '' and find(excluded, '\t' .. ids[at] .. '\t', 1, true)) then
      if ids[at] == prefer and not is_failing[at] then return at end
      local cost = (dear[at] or 1) * (1 + load[ids[at]] / caps[ids[at]])
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
  local instance, charge, turn = ids[at], math.max(1, estimate), load[''] + 1
  room[at], free = room[at] - 1, free - 1
  set_load(instance, load[instance] + 1)
  set_load('', turn)
  set_load('@', now)
  if tokens > load['\tv'] then set_load('\tv', tokens) end
  set_load('\tk' .. key, tokens + charge)
  keep(id, 'L\n' .. instance .. '\n' .. holder .. '\n' .. now .. '\n' .. charge .. '\n' .. key, now + ttl)
  if turn % 64 == 0 then
    queue().forget_gone()
    queue().fade()
  end
  return tokens + charge
end
