-- reckon: what one gateway kept, gave and counted since it last said so, and which answers must go: those whose time is
-- over, and where there is too little room those used least.
-- KEYS[1] uses    zset  key of an answer -> log2 of the sum of 2^(time of use / half-life): a use counts half of one that
--                       is a half-life younger, and no score ever has to be lowered (forward decay, Cormode et al., ICDE
--                       2009)
-- KEYS[2] ends    zset  key -> when Redis forgets it by itself (unix ms)
-- KEYS[3] about   hash  key -> 'bytes kept_at_ms about': about is JSON, see core/cache_entry.py
-- KEYS[4] counts  hash  name -> amount: bytes, evicted, expired, and what gateways count
-- ARGV[1] JSON: [kept, used, counts, bytes there may be, half-life (ms)]
--         kept    [[key, bytes, kept at (unix ms), ends (unix ms), about], ...]
--         used    [[key, times], ...]       counts [[name, amount], ...]
-- returns {keys that were dropped here and are to be deleted, answers kept, {name, amount, ...}, 1 if more must go}
-- Repeated: counts and uses are added again; they serve people and the choice of what goes.
local USES, ENDS, ABOUT, COUNTS = unpack(KEYS)
local kept, used, counts, room, half_life = unpack(cjson.decode(ARGV[1]))
local call, match = redis.call, string.match
local AT_ONCE = 100 -- a longer run would hold up everybody's
local clock = call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

-- What uses at this moment add to a sum of them; nil or false: there were none before.
local function with_uses(before, times)
  local one = now / half_life + math.log(times) / math.log(2)
  if before then
    local more, less = math.max(before, one), math.min(before, one)
    one = more + math.log(1 + 2 ^ (less - more)) / math.log(2)
  end
  return string.format('%.9f', one)
end

-- Answers leave the books; of which nothing is known are passed over. One command a book, however many they are.
local function forget(keys)
  local abouts, gone, bytes = keys[1] and call('HMGET', ABOUT, unpack(keys)) or {}, {}, 0
  for at = 1, #keys do
    if abouts[at] then
      gone[#gone + 1] = keys[at]
      bytes = bytes + match(abouts[at], '^%d+')
    end
  end
  if not gone[1] then return end
  call('HINCRBY', COUNTS, 'bytes', -bytes)
  call('HDEL', ABOUT, unpack(gone))
  call('ZREM', USES, unpack(gone))
  call('ZREM', ENDS, unpack(gone))
end

local function keep()
  local keys, abouts, all_end, uses, sum = {}, {}, {}, {}, 0
  for at = 1, #kept do
    local key, bytes, kept_at, ends, about = unpack(kept[at])
    local n = 2 * at
    keys[at], sum = key, sum + bytes
    abouts[n - 1], abouts[n] = key, string.format('%.0f %.0f %s', bytes, kept_at, about)
    all_end[n - 1], all_end[n] = string.format('%.0f', ends), key
    uses[n - 1], uses[n] = with_uses(nil, 1), key
  end
  forget(keys)
  call('HSET', ABOUT, unpack(abouts))
  call('ZADD', ENDS, unpack(all_end))
  call('ZADD', USES, unpack(uses))
  call('HINCRBY', COUNTS, 'bytes', sum)
end

local function use()
  local keys, uses = {}, {}
  for at = 1, #used do keys[at] = used[at][1] end
  local ends, before = call('ZMSCORE', ENDS, unpack(keys)), call('ZMSCORE', USES, unpack(keys))
  for at = 1, #used do
    if ends[at] then
      local n = #uses
      uses[n + 1], uses[n + 2] = with_uses(before[at] and tonumber(before[at]), used[at][2]), keys[at]
    end
  end
  if uses[1] then call('ZADD', USES, unpack(uses)) end
end

if kept[1] then keep() end
if used[1] then use() end
for at = 1, #counts do call('HINCRBY', COUNTS, counts[at][1], counts[at][2]) end

local over = call('ZRANGEBYSCORE', ENDS, '-inf', now, 'LIMIT', 0, AT_ONCE)
forget(over)
if over[1] then call('HINCRBY', COUNTS, 'expired', #over) end

local gone, bytes = {}, tonumber(call('HGET', COUNTS, 'bytes') or 0)
while bytes > room and #gone < AT_ONCE do
  local least = call('ZRANGE', USES, 0, 0)[1]
  if not least then break end
  forget({least})
  gone[#gone + 1] = least
  bytes = tonumber(call('HGET', COUNTS, 'bytes'))
end
if gone[1] then call('HINCRBY', COUNTS, 'evicted', #gone) end
local is_more = #over == AT_ONCE or #gone == AT_ONCE
return {gone, call('ZCARD', ENDS), call('HGETALL', COUNTS), is_more and 1 or 0}
