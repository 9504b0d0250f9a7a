-- settle: give a lease back with what became of its call, keep the answer, count the usage. One of calls.lua's.
-- One that is asked for again has ended by its record: nothing is released, counted or judged twice. A lease that Redis
-- lost or that expired is counted and judged all the same: the call did happen.

-- The moving mean of how long calls hold their slot there, with one more, which counts as ten usual ones at most; and of
-- what calls are charged. Once there are enough, one of four will do: who it is, the clock decides.
-- What seems to have taken longer than LONGEST says nothing: mostly Redis' clock was set meanwhile, and by an hour in the
-- mean every call would be sent away that has to wait.
local LONGEST = 15 * 60 * 1000
local function measure(instance, since, tokens)
  local kept = paces[instance] or 0
  local n = kept % 1024
  if now - since > LONGEST or not caps[instance] or (n >= ENOUGH and now_us % 4 ~= 0) then return end
  local mean, held = (kept - n) / 1024, math.max(0, now - since) * 1000
  if n >= PRIOR then held = math.min(held, 10 * mean) end
  n = math.min(n + 1, SAMPLES)
  paces[instance] = math.floor(mean + (held - mean) / n + 0.5) * 1024 + n
  is_paced[instance], is_dirty = true, true
  if tokens >= 0 then
    local usual = load_of('\tw')
    set_load('\tw', usual > 0 and math.floor(usual + (tokens - usual) / 32 + 0.5) or tokens)
  end
end

-- Charges the key what its call has used, beyond what was charged when it began.
local function charge(key, outcome, tokens, before)
  if tokens < 0 and outcome ~= 'ok' and outcome ~= 'gone' then tokens = 0 end
  if tokens >= 0 then set_load('\tk' .. key, math.max(0, load_of('\tk' .. key) + tokens - before)) end
end

-- A success proves an instance well, unless it is ejected: then it only proves the past. One that was gets twice as many
-- calls at once with each, until that is all it has slots for.
local function succeeded(instance)
  local state = troubles[instance]
  if not state then return end
  local failures, ends, times = match(state, '^(%d+) (%d+) (%d+)$')
  if tonumber(ends) > now then return end
  local most = times == '0' and 0 or failures == '0' and 2 * times or 2
  local is_forgiven = failures == '0' and now - ends >= FORGIVEN_MS
  if most > 0 and not is_forgiven and most < (caps[instance] or 0) then
    troubles[instance] = string.format('0 %.0f %d', now, most)
    call('HSET', HEALTH, instance, troubles[instance])
  else
    call('HDEL', HEALTH, instance)
    troubles[instance] = nil
  end
end

-- A dead instance is ejected at once, shortly, even the only one. Another one after failures in a row, a hung one after
-- one, for longer each time, and only while at most half of the pool is: failures of all are seldom the fault of each.
-- One that is busy said for how long it wants to be left alone, and is, within the same bounds; it is no failure.
local function failed(instance, outcome, alone)
  if not caps[instance] then return end
  local failures, ends, times = match(troubles[instance] or '0 0 0', '^(%d+) (%d+) (%d+)$')
  failures, ends, times = tonumber(failures), tonumber(ends), tonumber(times)
  if failures == 0 then times = math.min(times, 1) end
  failures = outcome == 'busy' and math.max(failures, 1) or failures + 1
  if outcome == 'busy' then
    weigh()
    ends = math.max(ends, now)
    if ends == now and ejected + 1 <= count / 2 then ends = now + math.min(alone, EJECTED_AT_MOST) end
  elseif outcome == 'dead' then
    ends = math.max(ends, now + DEAD_FOR)
  elseif ends <= now then
    ends = now
    local is_due = failures >= FAILURES_EJECT or outcome == 'hung'
    if is_due then weigh() end
    if is_due and ejected + 1 <= count / 2 then
      ends = now + math.min(EJECTED_FOR * 2 ^ math.min(times, 20), EJECTED_AT_MOST)
      times = times + 1
    end
  end
  troubles[instance] = string.format('%d %.0f %d', failures, ends, times)
  call('HSET', HEALTH, instance, troubles[instance])
end

-- Answers the key that was charged; nil where the call had ended.
local function settle(record, id, instance, outcome, hold, key, tokens, alone)
  local kind, charged = record and sub(record, 1, 1), 0
  if kind == 'X' or kind == 'D' then return nil end
  if kind == 'L' then
    local leased, since, paid, whose = match(record, LEASE)
    instance = leased or match(record, '^.\n([^\n]*)')
    if since then
      key, charged = whose, paid
      if outcome == 'ok' then measure(instance, since, tokens) end
    end
    if hold <= 0 then add_load(instance, -1) end
  else
    if kind == 'T' then queue().leave(record) end
    if hold > 0 then add_load(instance, 1) end
  end
  if hold > 0 then keep(id, 'D\n' .. instance .. '\n', now + hold) else finish(id) end
  charge(key, outcome, tokens, charged)
  if outcome == 'ok' then succeeded(instance) elseif outcome ~= 'gone' then failed(instance, outcome, alone) end
  return key
end
