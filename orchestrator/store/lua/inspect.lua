-- inspect: a pool as it stands, counted anew from the records. Changes nothing.
-- KEYS 1-11 of the pool
-- ARGV     API keys to tell of: those with most tickets first, then those that were charged most
-- returns  JSON: is_known, instances {id: {slots, in_flight, ejected_ms, failures, took_us, samples}}, queued,
--          oldest_wait_ms, expected_ms (of a ticket filed now; -1: nobody can tell, 0: it would be a lease), keys
--          [{key, waiting, tokens}], and what contradicts itself: drift {what: why}. What is past its time but not
--          ended yet counts as it is kept.
look()
local counted, drift, oldest, queued = {}, {}, now, 0
local by_key, flows, turns, below = {}, {}, 0, 0
local function of(key)
  by_key[key] = by_key[key] or {key = key, waiting = 0, tokens = 0}
  return by_key[key]
end
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
    local place = match(record, PLACE_OF)
    local flow, class, key = match(place, PLACE)
    of(key).waiting = of(key).waiting + 1
    flows[flow] = true
    if class ~= '0' then below = below + 1 end
    if not call('ZSCORE', QUEUE, place) then drift[id] = 'a ticket that is not in the queue' end
    if class ~= '0' and not call('ZSCORE', RISES, id) then drift[id] = 'a ticket that never rises' end
  end
  if not call('ZSCORE', kind == 'X' and ENDED or EXPIRY, id) then drift[id] = 'a record that never ends' end
end
if (call('ZCARD', EXPIRY) + call('ZCARD', ENDED)) * 2 ~= #records then drift['expiry'] = 'an end without a record' end
if call('ZCARD', QUEUE) ~= queued then drift['queue'] = 'a place without a ticket' end
if call('ZCARD', RISES) ~= below then drift['rises'] = 'a rise without a ticket' end
local load = call('HGETALL', LOAD)
local loads = {}
for at = 1, #load, 2 do
  local kind = sub(load[at], 1, 2)
  if kind == '\tk' then of(sub(load[at], 3)).tokens = tonumber(load[at + 1]) end
  if load[at] ~= '' and load[at] ~= '@' and sub(kind, 1, 1) ~= '\t' then
    loads[load[at]] = tonumber(load[at + 1])
    if loads[load[at]] ~= (counted[load[at]] or 0) then drift[load[at]] = 'load is not what the records say' end
  end
end
for instance, n in pairs(counted) do
  if loads[instance] ~= n then drift[instance] = 'load is not what the records say' end
end
for flow in pairs(flows) do
  local class, key = match(flow, '^(%d)\t(.*)$')
  local turn_of = call('ZSCORE', TURNS, flow)
  if not turn_of then
    drift[flow] = 'tickets whose turn never comes'
  elseif turn_of - class * CLASS ~= of(key).tokens then
    drift[flow] = 'a turn that is not what its key was charged'
  end
  turns = turns + 1
end
if call('ZCARD', TURNS) ~= turns then drift['turns'] = 'a turn without tickets' end
local instances = {}
local function describe(id, slots)
  local failures, ends = match(call('HGET', HEALTH, id) or '0 0 0', '^(%d+) (%d+) ')
  local kept = tonumber(call('HGET', SLOTS, '\tp' .. id)) or 0
  instances[id] = {
    slots = slots, in_flight = loads[id] or 0, failures = tonumber(failures), ejected_ms = math.max(0, ends - now),
    took_us = math.floor(kept / 1024), samples = kept % 1024,
  }
end
for at = 1, count do describe(ids[at], caps[ids[at]]) end
for id, n in pairs(loads) do
  if n ~= 0 and not instances[id] then describe(id, 0) end
end
local keys = {}
for _, each in pairs(by_key) do keys[#keys + 1] = each end
table.sort(keys, function(one, two)
  if one.waiting ~= two.waiting then return one.waiting > two.waiting end
  if one.tokens ~= two.tokens then return one.tokens > two.tokens end
  return one.key < two.key
end)
for at = #keys, tonumber(ARGV[1]) + 1, -1 do keys[at] = nil end
return cjson.encode({
  is_known = known, instances = instances, queued = queued, oldest_wait_ms = now - oldest, drift = drift,
  expected_ms = (queued == 0 and free > 0) and 0 or queue().expected_ms(queued), keys = keys,
})
