-- resign: stop leading, so that another controller need not wait for the lock to expire.
-- KEYS[1]  leader      ARGV token      returns 1 resigned, 0 did not lead
-- Repeated: the token no longer leads.
local leader = redis.call('GET', KEYS[1])
if not leader or string.match(leader, '^%d+') ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
return 1
