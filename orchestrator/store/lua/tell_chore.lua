-- tell_chore: say how far a change of models is, or how it ended, if it is still open and the caller may say so.
-- KEYS[1]  leader, KEYS[2] chores (see ask_chore), KEYS[3] told: stream, fields 't' of each entry and its seal 's'
-- ARGV     token ('' of a gateway that waits no longer), digest, id, bytes, '1' where it is the end, the most entries
--          kept, time to live (ms), channel, seal
-- returns  1 told; 0 where the caller no longer leads, or the change is not open any more
-- Repeated: a line is told twice; an end is not there any more, which answers 0.
if ARGV[1] ~= '' then
  local leader = redis.call('GET', KEYS[1])
  if not leader or string.match(leader, '^%d+') ~= ARGV[1] then return 0 end
end
local open = redis.call('HGET', KEYS[2], ARGV[2])
if not open or (string.match(open, '^%S+') or '') ~= ARGV[3] then return 0 end
redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[6], '*', 't', ARGV[4], 's', ARGV[9])
redis.call('PEXPIRE', KEYS[3], ARGV[7])
if ARGV[5] == '1' then redis.call('HDEL', KEYS[2], ARGV[2]) end
redis.call('PUBLISH', ARGV[8], ARGV[3])
return 1
