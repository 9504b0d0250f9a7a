-- spend: what calls truly used in place of what was reserved for them; of one that did not happen, nothing.
-- KEYS     of each call those of its `reserve`, in the same order
-- ARGV[1]  JSON: [[reservation, [[requests, tokens, nano], ...]], ...]
-- returns  how many were settled; one that was settled before, or is not known, is under way no longer, and no more
-- Repeated: the records are gone, and nothing changes.
local ended = cjson.decode(ARGV[1])
local looked, place, settled = {}, 1, 0

local function spend(key, at, month_ends, used, taken)
  local requests, tokens, nano = used[1] - taken[1], used[2] - taken[2], used[3] - taken[3]
  if requests == 0 and tokens == 0 and nano == 0 then return end
  local of = looked[KEYS[key]]
  if not of then
    of = look(KEYS[key], KEYS[key + 1])
    forget(of)
    looked[KEYS[key]] = of
  end
  add(of, at, month_ends, requests, tokens, nano)
end

for n = 1, #ended do
  local id, used = unpack(ended[n])
  local record = call('GETDEL', KEYS[place])
  if record then
    local at, month_ends, taken = unpack(cjson.decode(record))
    for of = 1, #used do
      local key = place + 3 * of - 2
      spend(key, at, month_ends, used[of], taken[of])
      if taken[of][4] == 1 then call('ZREM', KEYS[key + 2], id) end
    end
    settled = settled + 1
  else -- lost, or made without Redis: `hold` may have counted it all the same
    for of = 1, #used do call('ZREM', KEYS[place + 3 * of], id) end
  end
  place = place + 1 + 3 * #used
end
for _, of in pairs(looked) do write(of) end
return settled
