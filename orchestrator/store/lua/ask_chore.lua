-- ask_chore: have a change of models done, or learn which one under way is the same.
-- KEYS[1]  chores  hash  digest of what is asked -> 'id time(ms) bytes'
-- ARGV     digest, id, bytes, the most that may be open, channel
-- returns  the id of the one that is open now; '' where there are too many
-- Repeated: the same id.
local open = redis.call('HGET', KEYS[1], ARGV[1])
if open then return string.match(open, '^%S+') end
if redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[4]) then return '' end
local clock = redis.call('TIME')
local now = string.format('%.0f', clock[1] * 1000 + math.floor(clock[2] / 1000))
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. now .. ' ' .. ARGV[3])
redis.call('PUBLISH', ARGV[5], ARGV[2])
return ARGV[2]
