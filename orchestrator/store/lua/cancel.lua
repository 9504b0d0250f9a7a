-- cancel: withdraw a ticket, or give back the lease it was granted meanwhile.
-- KEYS 1-7 of the pool      ARGV lease id, ...      returns 1
-- Repeated: the record says that it has ended. An unknown id is marked as ended too: an admit that was sent before this
-- but arrives after it, over a connection that broke, takes nothing.
local freed = false
for _, id in ipairs(ARGV) do
  local record = call('HGET', RECORDS, id)
  local kind = record and sub(record, 1, 1)
  if kind == 'L' then
    call('HINCRBY', LOAD, match(record, '^.\n([^\n]*)'), -1)
    freed = true
  elseif kind == 'T' then
    call('ZREM', QUEUE, id)
  end
  if kind ~= 'D' and kind ~= 'X' then finish(id) end
end
if freed then grant() end
return 1
