-- sweep: end what is past its time and grant what came free. The other scripts do it too, where there is traffic.
-- KEYS 1-7 of the pool      returns {leases expired, tickets expired, tickets granted, tickets waiting}
-- Repeated: there is nothing left to end.
local leases, tickets = drop_expired(50)
call('HSET', LOAD, '@', now)
forget_ended(50)
local granted = grant()
return {leases, tickets, granted, call('ZCARD', QUEUE)}
