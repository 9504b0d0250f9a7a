-- publish: set the instances of a pool and their slots. Those that vanished get nothing new; their leases stay until
-- they are settled. New slots go to waiting tickets at once.
-- KEYS 1-11 of the pool
-- ARGV     token of the controller, grace (ms), then instance, slots, ...
--          grace: a pool that Redis did not know (new, or Redis lost its data) leases nothing for that long, so that
--          gateways can say by `renew` which slots they hold already
-- returns  1, or 0 where a newer controller has published: its word stands
-- Repeated: the same instances are set again.
local token, grace = tonumber(ARGV[1]), tonumber(ARGV[2])
local marker = call('HGET', SLOTS, '')
local opens_at = now + grace
if marker then
  local last_token, last_opens_at = match(marker, '^(%d+) (%d+)$')
  if tonumber(last_token) > token then return 0 end
  opens_at = last_opens_at
end
local published = {}
for at = 3, #ARGV, 2 do published[ARGV[at]] = true end
for _, field in ipairs(call('HKEYS', SLOTS)) do
  local measured_of = match(field, '^\tp(.*)$')
  if not (measured_of and published[measured_of]) then call('HDEL', SLOTS, field) end
end
call('HSET', SLOTS, '', string.format('%.0f %.0f', token, opens_at))
for at = 3, #ARGV, 2 do call('HSET', SLOTS, ARGV[at], ARGV[at + 1]) end
for _, instance in ipairs(call('HKEYS', HEALTH)) do
  if not published[instance] then call('HDEL', HEALTH, instance) end
end
local load = call('HGETALL', LOAD)
for at = 1, #load, 2 do
  local field = load[at]
  local is_instance = field ~= '' and sub(field, 1, 1) ~= '\t'
  if load[at + 1] == '0' and is_instance and not published[field] then call('HDEL', LOAD, field) end
end
drop_expired(10)
write()
grant()
return 1
