-- calls: what one gateway's calls ask of a pool in one turn of its loop, in one run: those that ended are settled, slots
-- that came free are granted, then those that came are admitted. Between them, admit.lua, join.lua and settle.lua.
-- KEYS 1-9 of the pool, then those that ARGV[1] names by their places
-- ARGV[1]  JSON: [by, ended, came]
--          by     [holder, time to live (ms), waiting by which a ticket rises one class (us),
--                 failures in a row that eject, ejected for (ms; doubled each time), at most (ms), a dead one for (ms),
--                 time to live of an affinity (ms), usage kept for (s)]
--          ended  [[lease id, instance, outcome: ok | failed | dead (refused the connection) | hung (silent for too long)
--                 | busy (it said so) | gone (the client left), hold (ms): the engine works on that much longer, its slot stays taken,
--                 API key, tokens of prompt and answer, an answer's counted twice (-1: nobody knows),
--                 key of the conversation's affinity, key of usage, [field, amount, ...],
--                 key of the answer, its place in ARGV, its time to live (ms),
--                 key of who makes the answer, for how long it wants to be left alone (ms)], ...]
--                 a key's place is 0: none
--          came   [[lease id, tickets the queue may hold, longest wait (ms), waited already (ms): a ticket that Redis
--                 lost is filed where it stood, priority class 0 to 9, API key, tokens of the prompt as far as one can
--                 tell, instances it may not have: '' or '\tone\tanother\t', 1 may queue,
--                 key of the conversation's affinity (key -> the instance that served it last),
--                 key of the answer, key of usage, key of who makes the answer (key -> 'holder\nlease id'): it is made
--                 for one at a time, others join; a lease id that proved to make nothing any more, or ''], ...]
-- ARGV[2..] answers to keep
-- returns  for each that came {'C', bytes: the answer that was kept} or what join.lua or admit.lua answers
-- Repeated: each is answered by its lease id what it was answered first. A kept answer is answered, and counted, again.
local by, ended, came = unpack(cjson.decode(ARGV[1]))
HOLDER, TTL, STEP, FAILURES_EJECT, EJECTED_FOR, EJECTED_AT_MOST, DEAD_FOR = unpack(by)

local usage = {}
local function count_up(place, field, amount)
  local counts = usage[place]
  if not counts then
    counts = {}
    usage[place] = counts
  end
  counts[field] = (counts[field] or 0) + amount
end

-- Records of all, then the answers and affinities that those who came ask for.
local names, wanted, callers = {}, {}, {}
for at = 1, #ended do names[at], callers[ended[at][5]] = ended[at][1], true end
for at = 1, #came do
  local each = came[at]
  names[#ended + at], callers[each[6]] = each[1], true
  if each[10] > 0 then wanted[#wanted + 1] = KEYS[each[10]] end
  if each[11] > 0 then wanted[#wanted + 1] = KEYS[each[11]] end
  if each[13] > 0 then wanted[#wanted + 1] = KEYS[each[13]] end
end

read(callers)
if drop_expired(2) > 0 then write() end
local records = call('HMGET', RECORDS, unpack(names))

local made_no_more = {}
for at = 1, #ended do
  local each = ended[at]
  local key = settle(records[at], each[1], each[2], each[3], each[4], each[5], each[6], each[14] or 0)
  if key then
    callers[key] = true
    if each[3] == 'ok' then
      if each[10] > 0 then call('SET', KEYS[each[10]], ARGV[each[11]], 'PX', each[12]) end
      if each[7] > 0 then call('SET', KEYS[each[7]], each[2], 'PX', by[8]) end
    end
    for of = 1, #each[9], 2 do count_up(each[8], each[9][of], each[9][of + 1]) end
    -- Where this one failed, another may have taken its place already.
    if each[13] > 0 and (each[3] == 'ok' or call('GET', KEYS[each[13]]) == HOLDER .. '\n' .. each[1]) then
      made_no_more[#made_no_more + 1] = KEYS[each[13]]
    end
  end
end
if made_no_more[1] then call('DEL', unpack(made_no_more)) end

-- Tickets come first. What they leave free, they may not use: they were tried there before.
waiting = call('ZCARD', QUEUE)
weigh()
if waiting > 0 then
  write()
  for key in pairs(callers) do queue().reorder(key, load_of('\tk' .. key)) end
  waiting = waiting - queue().grant_all()
end

local found = wanted[1] and call('MGET', unpack(wanted))
local replies, next_found = {}, 1
for at = 1, #came do
  local each, record, prefer, answer, made = came[at], records[#ended + at], '', nil, nil
  if each[10] > 0 then
    prefer = found[next_found] or ''
    next_found = next_found + 1
  end
  if each[11] > 0 then
    answer = found[next_found]
    next_found = next_found + 1
  end
  if each[13] > 0 then
    made = found[next_found]
    next_found = next_found + 1
  end
  if record then
    write()
    replies[at] = repeated(each[1], record)
  else
    if answer ~= nil then count_up(each[12], answer and 'cache_hits' or 'cache_misses', 1) end
    if answer then
      replies[at] = {'C', answer}
    else
      replies[at] = made and joined(made, KEYS[each[13]], each[5], each[14])
        or admit(each[1], each[2], each[3], each[4], each[5], each[6], each[7], each[8], each[9], prefer)
      local kind = replies[at][1]
      if made ~= nil and (kind == 'L' or kind == 'Q') then
        call('SET', KEYS[each[13]], HOLDER .. '\n' .. each[1], 'PX', MADE_WITHIN_MS)
      end
    end
  end
end

write()
for place, counts in pairs(usage) do
  for field, amount in pairs(counts) do
    -- The first amount of a field starts the clock: a key lives as long as its youngest field asks.
    if call('HINCRBY', KEYS[place], field, amount) == amount then call('EXPIRE', KEYS[place], by[9]) end
  end
end
return replies
