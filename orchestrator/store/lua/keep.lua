-- keep: put one file of a cluster where all its machines find it, unless it was changed meanwhile.
-- KEYS[1]  kept  hash  name -> 'tag content', '' -> a number that rises with each change, ' ' -> when it was begun (us)
-- ARGV     name, tag of what lies there now ('' nothing), its tag (revision, whether it is there or gone, seal), content
-- returns  1, or 0 where something else lies there
-- Repeated: what lies there is what was to be put.
local name, before, tag, content = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local found = redis.call('HGET', KEYS[1], name)
local now = found and string.match(found, '^(%S+) ') or ''
if now == tag then return 1 end
if now ~= before then return 0 end
if redis.call('HEXISTS', KEYS[1], ' ') == 0 then
  local clock = redis.call('TIME')
  redis.call('HSET', KEYS[1], ' ', string.format('%.0f', clock[1] * 1000000 + clock[2]))
end
redis.call('HSET', KEYS[1], name, tag .. ' ' .. content)
redis.call('HINCRBY', KEYS[1], '', 1)
return 1
