-- calls: what one gateway's calls ask of a pool in one turn of its loop, in one run: those that ended are settled, slots
-- that came free are granted, then those that came are admitted. Between them, admit.lua, join.lua and settle.lua.
-- KEYS 1-11 of the pool, then those that ARGV names by their places
-- ARGV 1 to 3 are doubles and texts that end with a zero byte: to read them so costs less than to read JSON.
-- ARGV[1]  of the gateway: time to live (ms), waiting by which a ticket rises one class (us), failures in a row that
--          eject, ejected for (ms; doubled each time), at most (ms), a dead one for (ms), time to live of an affinity
--          (ms), usage kept for (s); holder
-- ARGV[2]  of each that ended: 1 hold (ms): the engine works on that much longer, its slot stays taken; 2 tokens of prompt
--          and answer, an answer's counted twice (-1: nobody knows); 3 key of the conversation's affinity; 4 key of usage;
--          5 key of the answer, 6 its place in ARGV, 7 its time to live (ms); 8 key of who makes the answer; 9 for how
--          long it wants to be left alone (ms); 10 how many counts follow; 11 lease id; 12 instance; 13 outcome: ok |
--          failed | dead (refused the connection) | hung (silent for too long) | busy (it said so) | gone (the client
--          left); 14 API key; then the counts' amounts, then their fields. A key is its place in KEYS; 0: none
-- ARGV[3]  of each that came: 1 tickets the queue may hold; 2 longest wait (ms); 3 waited already (ms): a ticket that
--          Redis lost is filed where it stood; 4 priority class 0 to 9; 5 tokens of the prompt as far as one can tell; 6
--          1: may queue; 7 key of the conversation's affinity (key -> the instance that served it last); 8 key of the
--          answer; 9 key of usage; 10 key of who makes the answer (key -> 'holder\nlease id'): it is made for one at a
--          time, others join; 11 lease id; 12 API key; 13 instances it may not have: '' or '\tone\tanother\t'; 14 a lease
--          id that proved to make nothing any more, or ''
-- ARGV[4..] answers to keep
-- returns  for each that came {'C', bytes: the answer that was kept} or what join.lua or admit.lua answers
-- Repeated: each is answered by its lease id what it was answered first. A kept answer is answered, and counted, again.
local numbers_and_texts = struct.unpack
by = {numbers_and_texts('<dddddddds', ARGV[1])}
local ended, came = {}, {}

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
local told, from = ARGV[2], 1
while from <= #told do
  local each = {numbers_and_texts('<ddddddddddssss', told, from)}
  from = each[15]
  if each[10] > 0 then
    each.counts = {numbers_and_texts('<' .. string.rep('d', each[10]) .. string.rep('s', each[10]), told, from)}
    from = each.counts[#each.counts]
  end
  ended[#ended + 1], names[#names + 1], callers[each[14]] = each, each[11], true
end
told, from = ARGV[3], 1
while from <= #told do
  local each = {numbers_and_texts('<ddddddddddssss', told, from)}
  from = each[15]
  came[#came + 1], names[#names + 1], callers[each[12]] = each, each[11], true
  for of = 7, 10 do
    if of ~= 9 and each[of] > 0 then wanted[#wanted + 1] = KEYS[each[of]] end
  end
end

read(callers)
if drop_expired(2) > 0 then write() end
local records = records_of(names)

local made_no_more = {}
for at = 1, #ended do
  local each = ended[at]
  local id, instance, outcome = each[11], each[12], each[13]
  local key = settle(records[at], id, instance, outcome, each[1], each[14], each[2], each[9])
  if key then
    callers[key] = true
    if outcome == 'ok' then
      if each[5] > 0 then call('SET', KEYS[each[5]], ARGV[each[6]], 'PX', each[7]) end
      if each[3] > 0 then call('SET', KEYS[each[3]], instance, 'PX', AFFINITY_TTL) end
    end
    for of = 1, each[10] do count_up(each[4], each.counts[each[10] + of], each.counts[of]) end
    -- Where this one failed, another may have taken its place already.
    if each[8] > 0 and (outcome == 'ok' or call('GET', KEYS[each[8]]) == HOLDER .. '\n' .. id) then
      made_no_more[#made_no_more + 1] = KEYS[each[8]]
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
  local id, key = each[11], each[12]
  if each[7] > 0 then
    prefer = found[next_found] or ''
    next_found = next_found + 1
  end
  if each[8] > 0 then
    answer = found[next_found]
    next_found = next_found + 1
  end
  if each[10] > 0 then
    made = found[next_found]
    next_found = next_found + 1
  end
  if record then
    write()
    replies[at] = repeated(id, record)
  else
    if answer ~= nil then count_up(each[9], answer and 'cache_hits' or 'cache_misses', 1) end
    if answer then
      replies[at] = {'C', answer}
    else
      replies[at] = made and joined(made, KEYS[each[10]], each[4], each[14])
        or admit(id, each[1], each[2], each[3], each[4], key, each[5], each[13], each[6], prefer)
      local kind = replies[at][1]
      if made ~= nil and (kind == 'L' or kind == 'Q') then
        call('SET', KEYS[each[10]], HOLDER .. '\n' .. id, 'PX', MADE_WITHIN_MS)
      end
    end
  end
end

write()
for place, counts in pairs(usage) do
  for field, amount in pairs(counts) do
    -- The first amount of a field starts the clock: a key lives as long as its youngest field asks.
    if call('HINCRBY', KEYS[place], field, amount) == amount then call('EXPIRE', KEYS[place], USAGE_KEPT) end
  end
end
return replies
