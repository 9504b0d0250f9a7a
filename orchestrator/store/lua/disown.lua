-- disown: answers that are being deleted leave the books; see reckon.
-- KEYS  uses, ends, about, counts: as in reckon        ARGV  keys of answers
-- returns how many were in the books        Repeated: 0 of those that are gone already
local USES, ENDS, ABOUT, COUNTS = unpack(KEYS)
local gone = 0
for at = 1, #ARGV do
  local about = redis.call('HGET', ABOUT, ARGV[at])
  if about then
    redis.call('HINCRBY', COUNTS, 'bytes', -tonumber(string.match(about, '^%d+')))
    redis.call('HDEL', ABOUT, ARGV[at])
    redis.call('ZREM', USES, ARGV[at])
    redis.call('ZREM', ENDS, ARGV[at])
    gone = gone + 1
  end
end
return gone
