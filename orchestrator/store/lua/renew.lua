-- renew: extend the leases a gateway holds, and create anew those that Redis has lost, so that its counts are right.
-- KEYS 1-11 of the pool      ARGV holder, time to live (ms), then lease id, instance, ...
-- returns  {lease ids created anew}, {lease ids on instances that have more leases than slots}
-- Repeated: the leases are extended again. One that has ended stays ended, and one that drains stays bounded.
local holder, ends = ARGV[1], now + tonumber(ARGV[2])
local anew, over, names = {}, {}, {}
for at = 3, #ARGV, 2 do names[#names + 1] = ARGV[at] end
local records = names[1] and records_of(names)
for at = 3, #ARGV, 2 do
  local id, instance, record = ARGV[at], ARGV[at + 1], records[(at - 1) / 2]
  local kind = record and sub(record, 1, 1)
  if kind == 'L' then
    call('ZADD', EXPIRY, ends, id)
  elseif kind ~= 'D' and kind ~= 'X' then
    if kind == 'T' then queue().leave(record) end -- Redis came back with older data: the ticket was granted since
    add_load(instance, 1)
    keep(id, 'L\n' .. instance .. '\n' .. holder, ends)
    anew[#anew + 1] = id
  end
end
set_load('@', now)
look()
local crowded = {}
for at = 1, count do crowded[ids[at]] = load[ids[at]] > caps[ids[at]] end
for at = 3, #ARGV, 2 do
  if crowded[ARGV[at + 1]] then over[#over + 1] = ARGV[at] end
end
return {anew, over}
