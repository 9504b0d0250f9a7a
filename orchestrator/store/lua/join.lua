-- join: whether a call may have the answer that is being made, at this moment, for the very same call of another worker.
-- One of calls.lua's.
-- made   'holder\nlease id' of the call that the answer is made for; `class`: of the asking one; `void`: a lease id that
--        proved to make nothing any more, or ''
-- answers {'J', holder, lease id}; its worker has been told to pass on what is said. nil: nobody makes it, or one who
-- waits in a class behind this call's, or this worker itself, which knows best what its own calls may share.
-- The lease vouches for the maker: it is renewed while it is alive, and ends with it. So does its channel, and sooner.
local function joined(made, key, class, void)
  local holder, id = match(made, '^([^\n]*)\n(.*)$')
  if holder == HOLDER or id == void then return nil end
  write()
  local record = call('HGET', RECORDS, id)
  local kind = record and sub(record, 1, 1)
  if kind == 'T' then
    if tonumber(sub(match(record, PLACE_OF), 1, 1)) > class then return nil end
  elseif kind ~= 'L' then
    return nil
  end
  local told = call('PUBLISH', 'olm:join:' .. holder, 'A' .. match(key, '[^:]*$') .. '\n' .. HOLDER .. '\n0\n0')
  return told > 0 and {'J', holder, id} or nil
end
