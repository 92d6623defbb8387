-- Due reservations: the hold has ended, or the buyer has cancelled.
--
-- KEYS  1 item:{id}   2 reservations:{id}
-- ARGV  1 the number to skip   2 the maximum number to return, at most 500
--
-- Returns main's clock (us), the item's epoch, then user_token and score of each.
-- A write that changes nothing: a demoted main refuses it, and its reservations never reach the ledger.
redis.call('ZREM', KEYS[2], '')
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if not epoch then return redis.error_reply('NOITEM the item does not exist') end
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000000 + time[2])
local due = redis.call('ZRANGE', KEYS[2], 0, now, 'BYSCORE', 'LIMIT', ARGV[1], ARGV[2], 'WITHSCORES')
table.insert(due, 1, epoch)
table.insert(due, 1, now)
return due
