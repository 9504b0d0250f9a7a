-- announce: publish a snapshot of the cluster, if the caller still leads.
-- KEYS[1]  leader, KEYS[2] snapshot      ARGV token, bytes, channel      returns 1 published, 0 it no longer leads
-- Repeated: the same snapshot is set and announced again.
local leader = redis.call('GET', KEYS[1])
if not leader or string.match(leader, '^%d+') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[2])
redis.call('PUBLISH', ARGV[3], ARGV[1])
return 1
