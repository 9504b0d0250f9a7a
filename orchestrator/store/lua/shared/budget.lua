-- budget: what a scope has used, read, changed here and written once. Its rules are those of core/limits.py, which the
-- tests hold against these scripts. Three keys a scope, all scopes' in one hash tag, because a call claims several at
-- once:
-- sums    string  doubles, by the places named below: of the minute, the day and the month; what its provider said
-- minute  hash    second -> 'requests tokens' of the calls reserved in it; the second counted last is in `sums` yet
-- held    zset    reservation -> when it ends by itself (unix ms): calls under way
-- Every change writes `sums` as a whole, which costs Redis a third of a hash with as many fields.
local FORMAT = '<ddddddddddddddddd'
local FROM = 1 -- the minute is of this second on
local REQUESTS = 2 -- of the minute
local TOKENS = 3
local LAST = 4 -- the second counted last
local LAST_REQUESTS = 5
local LAST_TOKENS = 6
local DAY = 7 -- since 1970
local DAY_REQUESTS = 8
local DAY_TOKENS = 9
local DAY_NANO = 10 -- billionths of a dollar
local MONTH_ENDS = 11 -- the first day of the next month
local MONTH_NANO = 12
local BARRED = 13 -- by its provider's word, until then (unix ms)
local LEFT_REQUESTS = 14 -- by its provider's word
local LEFT_REQUESTS_UNTIL = 15
local LEFT_TOKENS = 16
local LEFT_TOKENS_UNTIL = 17
local WINDOW_S = 60
local KEPT_S = 3000000 -- of a scope that nobody uses: longer than a month
local MINUTE_KEPT_S = 300
local DAY_MS = 86400000
local HELD_WAIT_MS = 1000 -- when a call under way will end, nobody can tell
local call, floor, max, min, match = redis.call, math.floor, math.max, math.min, string.match
local clock = call('TIME')
local now = clock[1] * 1000 + floor(clock[2] / 1000)
local second, day = floor(now / 1000), floor(now / DAY_MS)

-- The first day of the month after a day's (H. Hinnant, "chrono-Compatible Low-Level Date Algorithms").
local function next_month(of)
  local z = of + 719468
  local era = floor(z / 146097)
  local of_era = z - era * 146097
  local year = floor((of_era - floor(of_era / 1460) + floor(of_era / 36524) - floor(of_era / 146096)) / 365)
  local of_year = of_era - (365 * year + floor(year / 4) - floor(year / 100))
  local month = floor((5 * of_year + 2) / 153) + 1 -- of a year that begins with March
  year = era * 400 + year
  if month == 12 then year, month = year + 1, 0 end
  local in_era = year - floor(year / 400) * 400
  local start = floor((153 * month + 2) / 5)
  return floor(year / 400) * 146097 + in_era * 365 + floor(in_era / 4) - floor(in_era / 100) + start - 719468
end

local function amounts(bucket)
  if not bucket then return 0, 0 end
  local requests, tokens = match(bucket, '^(%-?%d+) (%-?%d+)$')
  return tonumber(requests), tonumber(tokens)
end

-- What was counted in the seconds from one to another, by Redis; that of the last one stands in `sums`.
local function buckets(minute, from, to)
  local seconds = {}
  for at = from, to do seconds[#seconds + 1] = at end
  return call('HMGET', minute, unpack(seconds))
end

-- The minute goes on to now: what is over is gone from it. All of it is where the clock went back by more than a minute.
local function advance(of)
  local oldest = second - WINDOW_S
  if of[FROM] == oldest or (of[FROM] > oldest and of[FROM] <= second) then return end
  if of[LAST] < oldest or of[FROM] > second then
    of.is_all_gone = true
    of[REQUESTS], of[TOKENS], of[LAST], of[LAST_REQUESTS], of[LAST_TOKENS] = 0, 0, 0, 0, 0
  else
    local gone = buckets(of.minute, of[FROM], oldest - 1)
    for at = 1, #gone do
      local requests, tokens = amounts(gone[at])
      of[REQUESTS], of[TOKENS] = of[REQUESTS] - requests, of[TOKENS] - tokens
    end
    of.gone_from, of.gone_to = of[FROM], oldest - 1
  end
  of[FROM] = oldest
end

-- A scope as it stands now.
local function look(sums, minute)
  local told, of = call('GET', sums), nil
  if told then
    of = {struct.unpack(FORMAT, told)}
  else
    of = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
  end
  of.sums, of.minute = sums, minute
  advance(of)
  if day > of[DAY] then of[DAY], of[DAY_REQUESTS], of[DAY_TOKENS], of[DAY_NANO] = day, 0, 0, 0 end
  if day >= of[MONTH_ENDS] then of[MONTH_ENDS], of[MONTH_NANO] = next_month(day), 0 end
  return of
end

-- Another second than the one counted last is to be counted.
local function turn_to(of, at)
  if of[LAST_REQUESTS] ~= 0 or of[LAST_TOKENS] ~= 0 then
    call('HSET', of.minute, of[LAST], string.format('%.0f %.0f', of[LAST_REQUESTS], of[LAST_TOKENS]))
    call('EXPIRE', of.minute, MINUTE_KEPT_S)
  end
  of[LAST], of[LAST_REQUESTS], of[LAST_TOKENS] = at, 0, 0
end

-- What calls of a second use, added to the windows that it is still in. `month_ends`: of the month of that second.
local function add(of, at, month_ends, requests, tokens, nano)
  if at >= of[FROM] then
    if at > of[LAST] then turn_to(of, at) end
    if at == of[LAST] then
      of[LAST_REQUESTS], of[LAST_TOKENS] = of[LAST_REQUESTS] + requests, of[LAST_TOKENS] + tokens
    else
      local before, tokens_before = amounts(call('HGET', of.minute, at))
      call('HSET', of.minute, at, string.format('%.0f %.0f', before + requests, tokens_before + tokens))
      call('EXPIRE', of.minute, MINUTE_KEPT_S)
    end
    of[REQUESTS], of[TOKENS] = of[REQUESTS] + requests, of[TOKENS] + tokens
  end
  if floor(at / 86400) == of[DAY] then
    of[DAY_REQUESTS], of[DAY_TOKENS] = of[DAY_REQUESTS] + requests, of[DAY_TOKENS] + tokens
    of[DAY_NANO] = of[DAY_NANO] + nano
  end
  if month_ends == of[MONTH_ENDS] then of[MONTH_NANO] = of[MONTH_NANO] + nano end
end

-- To be called before anything is added: what is over leaves Redis.
local function forget(of)
  if of.is_all_gone then
    call('DEL', of.minute)
  elseif of.gone_from then
    local gone = {}
    for at = of.gone_from, of.gone_to do gone[#gone + 1] = at end
    call('HDEL', of.minute, unpack(gone))
  end
end

local function write(of)
  call('SET', of.sums, struct.pack(FORMAT, unpack(of, 1, 17)), 'EX', KEPT_S)
end
