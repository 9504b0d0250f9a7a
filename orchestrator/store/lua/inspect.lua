-- inspect: a pool as it stands, counted anew from the records. Changes nothing.
-- KEYS 1-7 of the pool
-- returns  JSON: is_known, instances {id: {slots, in_flight, ejected_ms, failures}}, queued, oldest_wait_ms, and what
--          contradicts itself: drift {what: why}. What is past its time but not ended yet counts as it is kept.
look()
local counted, drift, oldest, queued = {}, {}, now, 0
local records = call('HGETALL', RECORDS)
for at = 1, #records, 2 do
  local id, record = records[at], records[at + 1]
  local kind = sub(record, 1, 1)
  if kind == 'L' or kind == 'D' then
    local instance = match(record, '^.\n([^\n]*)')
    counted[instance] = (counted[instance] or 0) + 1
  elseif kind == 'T' then
    queued = queued + 1
    oldest = math.min(oldest, tonumber((select(4, match(record, TICKET)))))
    if not call('ZSCORE', QUEUE, id) then drift[id] = 'a ticket that is not in the queue' end
  end
  if not call('ZSCORE', kind == 'X' and ENDED or EXPIRY, id) then drift[id] = 'a record that never ends' end
end
if (call('ZCARD', EXPIRY) + call('ZCARD', ENDED)) * 2 ~= #records then drift['expiry'] = 'an end without a record' end
if call('ZCARD', QUEUE) ~= queued then drift['queue'] = 'a place without a ticket' end
local load = call('HGETALL', LOAD)
local loads = {}
for at = 1, #load, 2 do
  if load[at] ~= '' and load[at] ~= '@' then
    loads[load[at]] = tonumber(load[at + 1])
    if loads[load[at]] ~= (counted[load[at]] or 0) then drift[load[at]] = 'load is not what the records say' end
  end
end
for instance, n in pairs(counted) do
  if loads[instance] ~= n then drift[instance] = 'load is not what the records say' end
end
local instances = {}
local function describe(id, slots)
  local failures, ends = match(call('HGET', HEALTH, id) or '0 0 0', '^(%d+) (%d+) ')
  instances[id] = {
    slots = slots, in_flight = loads[id] or 0, failures = tonumber(failures), ejected_ms = math.max(0, ends - now),
  }
end
for at = 1, count do describe(ids[at], caps[at]) end
for id, n in pairs(loads) do
  if n ~= 0 and not instances[id] then describe(id, 0) end
end
return cjson.encode({
  is_known = known, instances = instances, queued = queued, oldest_wait_ms = now - oldest, drift = drift,
})
