-- recall: look an answer up, and count whether it was there.
-- KEYS[1]  answer, KEYS[2] counts (hash: hits, misses)      returns the bytes, or nil
-- Repeated: it is counted again; the counts serve people.
local answer = redis.call('GET', KEYS[1])
redis.call('HINCRBY', KEYS[2], answer and 'hits' or 'misses', 1)
return answer
