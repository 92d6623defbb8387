-- Due reservations: the hold has ended, or the buyer has cancelled.
--
-- KEYS  1 item:{id}   2 reservations:{id}   3 attempts:{id}
-- ARGV  1 the number to skip   2 the maximum number to return, at most 500
--
-- Returns main's clock (us), the item's epoch, then user_token, score, and '1' if a payment was reported before the
-- hold's end and is not decided ('' otherwise) of each.
-- A write that changes nothing: a demoted main refuses it, and its reservations never reach the ledger.
redis.call('ZREM', KEYS[2], '')
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if not epoch then return redis.error_reply('NOITEM the item does not exist') end
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000000 + time[2])
local found = redis.call('ZRANGE', KEYS[2], 0, now, 'BYSCORE', 'LIMIT', ARGV[1], ARGV[2], 'WITHSCORES')
local due = { now, epoch }
if #found == 0 then return due end
-- The buyers with a record, by the end of the hold. A record is 'user_token outcome reference'; no token has a space.
local noted = {}
for i = 1, #found, 2 do
  local buyer, score = found[i], found[i + 1]
  if not noted[score] then
    noted[score] = {}
    for _, record in ipairs(redis.call('ZRANGE', KEYS[3], score, score, 'BYSCORE')) do
      noted[score][string.match(record, '^[^ ]+')] = true
    end
  end
  due[#due + 1] = buyer
  due[#due + 1] = score
  due[#due + 1] = noted[score][buyer] and '1' or ''
end
return due
