-- heed: what a provider says of its own limits. It forbids until then; what the settings allow stays as it is.
-- KEYS     sums, minute of the scope, as shared/budget.lua says
-- ARGV     ms to wait, requests left, ms until that is over, tokens left, ms until that is over; -1: it did not say
-- Repeated a little later it forbids a little longer.
local wait, requests, requests_for = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local tokens, tokens_for = tonumber(ARGV[4]), ARGV[5]
local of = look(KEYS[1], KEYS[2])
if wait >= 0 then of[BARRED] = max(of[BARRED], now + wait) end
if requests >= 0 then of[LEFT_REQUESTS], of[LEFT_REQUESTS_UNTIL] = requests, now + requests_for end
if tokens >= 0 then of[LEFT_TOKENS], of[LEFT_TOKENS_UNTIL] = tokens, now + tokens_for end
forget(of)
write(of)
return 1
