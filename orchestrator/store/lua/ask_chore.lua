-- ask_chore: have a change of models done, or learn which one under way is the same.
-- KEYS[1]  chores  hash  digest of what is asked -> 'id time(ms) seal JSON', sealed by who asks
-- ARGV     digest, id, all that is kept, the most that may be open, channel
-- returns  the id of the one that is open now; '' where there are too many
-- Repeated: the same id.
local open = redis.call('HGET', KEYS[1], ARGV[1])
if open then return string.match(open, '^%S+') or ' ' end
if redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[4]) then return '' end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
redis.call('PUBLISH', ARGV[5], ARGV[2])
return ARGV[2]
