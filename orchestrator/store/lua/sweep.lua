-- sweep: end what is past its time and grant what came free. The other scripts do it too, where there is traffic.
-- KEYS 1-11 of the pool      returns {leases expired, tickets expired, tickets granted, tickets waiting}
-- Repeated: there is nothing left to end.
-- A key that was charged no more than the one served last counts, when it is back, as if it had never been here.
local function forget_keys()
  local load = call('HGETALL', LOAD)
  local last = tonumber(call('HGET', LOAD, '\tv')) or 0
  for at = 1, #load, 2 do
    if sub(load[at], 1, 2) == '\tk' and tonumber(load[at + 1]) <= last then call('HDEL', LOAD, load[at]) end
  end
end

local leases, tickets = drop_expired(50)
set_load('@', now)
queue().forget_gone()
write()
queue().forget_ended(50)
local granted, waiting = grant()
if waiting == 0 and call('HLEN', LOAD) > 4096 then forget_keys() end
return {leases, tickets, granted, waiting}
