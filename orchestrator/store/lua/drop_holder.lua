-- drop_holder: end at once the leases and tickets of a gateway's earlier lives. Slots whose engine still works on a
-- call (draining) stay taken until their own bound.
-- KEYS 1-11 of the pool      ARGV prefix of its holder names, the one that lives ('' none)
-- returns  {leases ended, tickets ended}
-- Repeated: there is nothing left to end.
local prefix, alive = ARGV[1], ARGV[2]
local leases, tickets = 0, 0
local records = call('HGETALL', RECORDS)
for at = 1, #records, 2 do
  local id, record = records[at], records[at + 1]
  local kind = sub(record, 1, 1)
  local holder
  if kind == 'L' then holder = match(record, '^L\n[^\n]*\n([^\n]*)') end
  if kind == 'T' then holder = match(record, TICKET) end
  if holder and holder ~= alive and sub(holder, 1, #prefix) == prefix then
    if kind == 'L' then
      add_load(match(record, '^.\n([^\n]*)'), -1)
      leases = leases + 1
    else
      queue().leave(record)
      tickets = tickets + 1
    end
    finish(id)
  end
end
write()
grant()
return {leases, tickets}
