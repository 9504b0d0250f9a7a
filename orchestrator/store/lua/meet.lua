-- meet: say that one is there, and learn who else is.
-- KEYS[1]  members  hash  'kind:place' -> 'heard ends words': when it was last heard of, when it is forgotten (unix ms)
-- ARGV     field ('' only learns), time to live (ms), words
-- returns  {field, ms since it was heard of, words, ...} of all who are not forgotten, in no order
-- Repeated: it is heard of once more.
local field, ttl, words = ARGV[1], ARGV[2], ARGV[3]
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
if field ~= '' then redis.call('HSET', KEYS[1], field, string.format('%.0f %.0f %s', now, now + ttl, words)) end
local told = {}
local members = redis.call('HGETALL', KEYS[1])
for at = 1, #members, 2 do
  local heard, ends, said = string.match(members[at + 1], '^(%d+) (%d+) (.*)$')
  if tonumber(ends) <= now then
    redis.call('HDEL', KEYS[1], members[at])
  else
    told[#told + 1] = members[at]
    told[#told + 1] = math.max(0, now - heard)
    told[#told + 1] = said
  end
end
return told
