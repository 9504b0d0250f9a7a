-- state: a pool's keys, and what a script knows of it while it runs. The loader puts it in front of every script of a
-- pool, then pool.lua and queue.lua, what they all do.
--
-- The keys of a pool carry one hash tag, {pool}, so that one node of a Redis Cluster has them all:
-- KEYS[1] slots    hash  instance -> slots it offers; '' -> 'token opens_at' of the last publication;
--                        '\tp' instance -> us a served call held its slot, a moving mean: mean * 1024 + samples in it
-- KEYS[2] load     hash  instance -> slots taken; '' -> leases granted so far: it says whose turn it is among equals;
--                        '@' -> when the pool was last in use, see drop_expired;
--                        '\tk' API key -> tokens it was charged; '\tv' -> the count of the key served last;
--                        '\tw' -> tokens charged for one call, a moving mean; '\te' -> since when `gone` is filled
-- KEYS[3] health   hash  instance -> 'failures until times', only of instances in trouble: failures in a row; when its
--                        ejection ends, or its last failure; ejections in a row. No failures: it is back, and
--                        may have so many calls at once
-- KEYS[4] records  hash  lease id -> what it is (fields split by \n):
--                        'L' instance holder since charged key       a lease; one that Redis had lost: no since etc.
--                        'D' instance holder        its client left, the engine still works on it: the slot is taken
--                        'T' holder deadline ttl enqueued step estimate place prefer excluded     a ticket, see queue
--                        'X'                        ended, as versions before wrote it
-- KEYS[5] expiry   zset  lease id -> when its lease, draining slot or ticket ends by itself
-- KEYS[6] queue, KEYS[8] turns, KEYS[9] rises: see queue.lua
-- KEYS[7] ended    zset  lease id -> when it ended, of an 'X'
-- KEYS[10] gone    set   lease ids that have ended; KEYS[11] gone_before: those before. Kept for a while, so that a late
--                        repeat finds them so, and dropped together, which costs nothing for each
--
-- Times are unix ms by Redis' clock: gateways' clocks may differ. The slots taken in `load` change only together with
-- the record that they count, so the two cannot drift apart; inspect counts anew for whoever wants to see that.
local SLOTS = KEYS[1]
local LOAD = KEYS[2]
local HEALTH = KEYS[3]
local RECORDS = KEYS[4]
local EXPIRY = KEYS[5]
local QUEUE = KEYS[6]
local ENDED = KEYS[7]
local TURNS = KEYS[8]
local RISES = KEYS[9]
local GONE = KEYS[10]
local GONE_BEFORE = KEYS[11]
local call, match, find, sub = redis.call, string.match, string.find, string.sub
local ENDED_KEPT_MS = 30000 -- longer than any client goes on repeating a request whose answer was lost
local AWAY_MS = 3000 -- a pool in use is renewed or swept more often than that
local RETURN_MS = 2000 -- longer than a gateway takes to reconnect and renew, or to renew when it is told to
local BACK_MS = 1000 -- a clock that is so far behind what it was has been set back
local MADE_WITHIN_MS = 900000 -- an answer's maker is looked for so long; whether it lives, its lease says
local FORGIVEN_MS = 30000 -- a failure longer ago says nothing of the next call
local SAMPLES = 128 -- in a moving mean: calls are as unlike as their answers' lengths, this leaves some 8 % of chance
local PRIOR = 8 -- an instance's mean counts as much as the pool's once it has so many samples
local ENOUGH = 16 -- samples of a pool, before waits are foretold
local UNLIKE = 1.25 -- instances nearer in speed than that are alike: the rest is chance
local BESIDES_US = 5000 -- of a call's time that no instance is to blame for
local CLASS = 2 ^ 49 -- more tokens than a key is ever charged; with ten classes still a whole number to a double
local TICKET = '^T\n([^\n]*)\n(%d+)\n(%d+)\n(%d+)\n(%d+)\n(%d+)\n([^\n]*)\n([^\n]*)\n(.*)$'
local PLACE_OF = '^T\n[^\n]*\n%d+\n%d+\n%d+\n%d+\n%d+\n([^\n]*)'
local PLACE = '^((%d)\t([^\t]*))\t(%d+)\t(.*)$' -- flow, class, key, rank, id
local LOOKED_AT = 32 -- flows, for a ticket's position: with more it is told too small
local LEASE = '^L\n([^\n]*)\n[^\n]*\n(%d+)\n(%d+)\n(.*)$'

local clock = call('TIME')
local now_us = clock[1] * 1000000 + clock[2]
local now = math.floor(now_us / 1000)

-- The pool as `look` last saw it: lists in one order, an entry an instance. `room` is what may be leased now, `dear` what
-- a call there costs beside an idle instance of the fastest kind, where that is more; `took` the us that one is expected
-- to take. `caps` has an instance's slots by its id.
local ids, caps, room, dear, took, is_barred, is_failing
local count, ejected, free, known, is_open, back_at, measured = 0, 0, 0, false, true, 0, 0
-- Of Redis what this script has read, changed here first: SLOTS' means, HEALTH, and LOAD's fields as numbers. What of it
-- has changed, and records with their ends, until `write`.
local paces, troubles, load = {}, {}, {}
local is_paced, is_loaded, is_dirty = {}, {}, false
local new_records, new_ends, gone = {}, {}, {}
-- What calls.lua is told of the gateway that asks, for admit.lua and settle.lua; and how many tickets wait.
local by, waiting = nil, 0
local TTL = by[1]
local STEP = by[2]
local FAILURES_EJECT = by[3]
local EJECTED_FOR = by[4]
local EJECTED_AT_MOST = by[5]
local DEAD_FOR = by[6]
local AFFINITY_TTL = by[7]
local USAGE_KEPT = by[8]
local HOLDER = by[9]
