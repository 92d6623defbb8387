-- Writes a new item. An existing item stays as it is.
--
-- KEYS  1 item:{id}
-- ARGV  pairs of field and value
--
-- Returns 1 if the item is new, 0 if it existed.
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV))
-- On which primary the queue began: the drain compares.
local info = redis.pcall('INFO', 'replication')
local primary = type(info) == 'string' and string.match(info, 'master_replid:(%x+)')
if primary then redis.call('HSET', KEYS[1], 'primary', primary) end
return 1
