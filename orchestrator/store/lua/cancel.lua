-- cancel: withdraw a ticket, or give back the lease it was granted meanwhile.
-- KEYS 1-11 of the pool      ARGV lease id, ...      returns 1
-- Repeated: the record says that it has ended. An unknown id is marked as ended too: an admit that was sent before this
-- but arrives after it, over a connection that broke, takes nothing.
local freed = false

-- It asked nothing of an instance.
local function refund(record)
  local _, _, charged, key = match(record, LEASE)
  if not charged then return end
  local tokens = math.max(0, load_of('\tk' .. key) - charged)
  set_load('\tk' .. key, tokens)
  queue().reorder(key, tokens)
end

for _, id in ipairs(ARGV) do
  local record = call('HGET', RECORDS, id)
  local kind = record and sub(record, 1, 1)
  if kind == 'L' then
    add_load(match(record, '^.\n([^\n]*)'), -1)
    refund(record)
    freed = true
  elseif kind == 'T' then
    queue().leave(record)
  end
  if kind ~= 'D' and kind ~= 'X' then finish(id) end
end
write()
if freed then grant() end
return 1
