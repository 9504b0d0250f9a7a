-- hold: calls under way stay counted; those that Redis has lost are counted again.
-- KEYS     held of each scope, as shared/budget.lua says
-- ARGV[1]  JSON: [time to live (ms), [reservation, ...] of each scope]
-- returns  how many were counted anew
local ttl, names = unpack(cjson.decode(ARGV[1]))
local anew = 0
for at = 1, #KEYS do
  for n = 1, #names[at] do anew = anew + call('ZADD', KEYS[at], now + ttl, names[at][n]) end
  call('PEXPIRE', KEYS[at], ttl)
end
return anew
