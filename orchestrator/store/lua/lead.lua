-- lead: become the controller that may publish, or stay it, or learn who is.
-- KEYS[1]  leader   string  'token holder', gone when not renewed in time
-- KEYS[2]  token    string  'token holder' of who led last
-- ARGV     holder, time to live (ms)
-- returns  {token, holder}: the caller leads if it is the holder
-- Repeated: the leader stays the leader, with the same token. Who led last and is first to come back goes on with its
-- token: nobody else can have led since. Tokens rise even where Redis lost its data, because they are at least the time
-- (ms): a controller that slept through it all is still told from the one that leads.
local holder, ttl = ARGV[1], ARGV[2]
local leader = redis.call('GET', KEYS[1])
if leader then
  local token, name = string.match(leader, '^(%d+) (.*)$')
  if name == holder then redis.call('PEXPIRE', KEYS[1], ttl) end
  return {token, name}
end
local last, name = string.match(redis.call('GET', KEYS[2]) or '0', '^(%d+) ?(.*)$')
local token = last
if name ~= holder then
  local clock = redis.call('TIME')
  token = string.format('%.0f', math.max(tonumber(last) + 1, clock[1] * 1000 + math.floor(clock[2] / 1000)))
  redis.call('SET', KEYS[2], token .. ' ' .. holder)
end
redis.call('SET', KEYS[1], token .. ' ' .. holder, 'PX', ttl)
return {token, holder}
