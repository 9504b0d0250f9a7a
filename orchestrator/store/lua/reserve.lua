-- reserve: all that one call claims of its budgets, or nothing of it and why. core/limits.py has the same rules.
-- KEYS[1]  record  what was reserved, until it is settled (`spend`); kept RECORD_MS at most
-- KEYS[2..] of each claim: sums, minute, held, as shared/budget.lua says
-- ARGV[1]  JSON: [reservation; '' for one that is not recorded, 1 to look only, time to live of a call under way (ms),
--                 [[requests, tokens, nano (billionths of a dollar), 1: it is under way until it is settled,
--                   limits: requests a minute, tokens a minute, at once, requests a day, tokens a day, nano a day, nano a
--                   month; -1: none], ...]]
-- returns  {1 reserved | 0 not, unix ms, then of each claim: the limit that lasts longest of those used up, by its place in
--          the order above (8: the provider's own word; 0: none), ms until it is free, used of each limit by now}
-- Asked again it reserves again: a reservation whose answer was lost is taken for used. It is never too little.
local RECORD_MS = 21600000 -- a call that takes longer keeps its estimate
local id, only_look, ttl, claims = unpack(cjson.decode(ARGV[1]))
local seen, reply, is_free = {}, {1, now}, true

-- A call that needs more than the limit is waits until nothing is used.
local function is_over(used, need, limit)
  return limit >= 0 and need > 0 and (limit == 0 or used + min(need, limit) > limit)
end

-- Until so much of the minute is over that the call fits. `part`: 1 requests, 2 tokens.
local function minute_wait(of, part, used, need, limit)
  local counted = of[LAST] > of[FROM] and buckets(of.minute, of[FROM], of[LAST] - 1) or {}
  for at = 1, #counted do
    used = used - select(part, amounts(counted[at]))
    if not is_over(used, need, limit) then return (of[FROM] + at + WINDOW_S) * 1000 - now end
  end
  if limit > 0 and of[LAST] >= of[FROM] then return (of[LAST] + WINDOW_S + 1) * 1000 - now end
  return (WINDOW_S + 1) * 1000
end

local function refusal(of, held, requests, tokens, nano, holds, rpm, tpm, concurrent, rpd, tpd, usd_day, usd_month)
  local kind, wait, tomorrow = 0, 0, (day + 1) * DAY_MS - now
  local function note(which, ms)
    if ms > wait then kind, wait = which, ms end
  end
  if is_over(of[REQUESTS], requests, rpm) then note(1, minute_wait(of, 1, of[REQUESTS], requests, rpm)) end
  if is_over(of[TOKENS], tokens, tpm) then note(2, minute_wait(of, 2, of[TOKENS], tokens, tpm)) end
  if holds == 1 and is_over(held, 1, concurrent) then note(3, HELD_WAIT_MS) end
  if is_over(of[DAY_REQUESTS], requests, rpd) then note(4, tomorrow) end
  if is_over(of[DAY_TOKENS], tokens, tpd) then note(5, tomorrow) end
  if nano > 0 and usd_day >= 0 and of[DAY_NANO] + nano > usd_day then note(6, tomorrow) end
  if nano > 0 and usd_month >= 0 and of[MONTH_NANO] + nano > usd_month then note(7, of[MONTH_ENDS] * DAY_MS - now) end
  note(8, of[BARRED] - now)
  if of[LEFT_REQUESTS] < requests then note(8, of[LEFT_REQUESTS_UNTIL] - now) end
  if of[LEFT_TOKENS] < tokens then note(8, of[LEFT_TOKENS_UNTIL] - now) end
  return kind, wait
end

for at = 1, #claims do
  local claim, held = claims[at], 0
  local of = look(KEYS[3 * at - 1], KEYS[3 * at])
  if claim[4] == 1 or claim[7] >= 0 then
    held = call('ZCOUNT', KEYS[3 * at + 1], '(' .. now, '+inf')
  end
  local kind, wait = refusal(of, held, unpack(claim))
  is_free = is_free and kind == 0
  seen[at], of.held = of, held
  of.kind, of.wait = kind, wait
end

if is_free and only_look == 0 then
  local month_ends = seen[1] and seen[1][MONTH_ENDS]
  local taken = {}
  for at = 1, #claims do
    local of, requests, tokens, nano, holds = seen[at], unpack(claims[at])
    forget(of)
    add(of, second, month_ends, requests, tokens, nano)
    of[LEFT_REQUESTS], of[LEFT_TOKENS] = of[LEFT_REQUESTS] - requests, of[LEFT_TOKENS] - tokens
    if holds == 1 then
      local key = KEYS[3 * at + 1]
      call('ZREMRANGEBYSCORE', key, '-inf', now)
      call('ZADD', key, now + ttl, id)
      call('PEXPIRE', key, ttl)
      of.held = of.held + 1
    end
    write(of)
    taken[at] = string.format('[%.0f,%.0f,%.0f,%d]', requests, tokens, nano, holds)
  end
  if id ~= '' then
    local record = string.format('[%d,%d,[%s]]', second, month_ends, table.concat(taken, ','))
    call('SET', KEYS[1], record, 'PX', RECORD_MS)
  end
end

reply[1] = is_free and 1 or 0
for at = 1, #claims do
  local of, n = seen[at], #reply
  reply[n + 1], reply[n + 2] = of.kind, of.wait
  reply[n + 3], reply[n + 4], reply[n + 5] = of[REQUESTS], of[TOKENS], of.held
  reply[n + 6], reply[n + 7], reply[n + 8], reply[n + 9] = of[DAY_REQUESTS], of[DAY_TOKENS], of[DAY_NANO], of[MONTH_NANO]
end
return reply
