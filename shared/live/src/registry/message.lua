-- Counts a message of a connection and returns its sender.
--
-- KEYS  1 connection:{id}   2 subscriptions:{id}
-- ARGV  1 the maximum number of messages in a window   2 the window (us)   3 the maximum number of subscriptions
--       4 an item to add to the subscriptions, or ''   5 an item to remove, or ''
--
-- Returns nothing if the connection is not registered; otherwise user_token, ends_at, the number of messages in this
-- window, 1 or 0 (the item did not fit), and the subscriptions.
local known = redis.call('HMGET', KEYS[1], 'user_token', 'ends_at', 'window', 'messages')
if not known[1] then return {} end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local window, messages = tonumber(known[3] or '0'), tonumber(known[4] or '0')
if now - window >= tonumber(ARGV[2]) then window, messages = now, 0 end
messages = messages + 1
redis.call('HSET', KEYS[1], 'window', string.format('%.0f', window), 'messages', messages)
local fits = 1
if messages <= tonumber(ARGV[1]) then
  if ARGV[4] ~= '' and redis.call('SISMEMBER', KEYS[2], ARGV[4]) == 0 then
    if redis.call('SCARD', KEYS[2]) >= tonumber(ARGV[3]) then
      fits = 0
    else
      redis.call('SADD', KEYS[2], ARGV[4])
      redis.call('EXPIRE', KEYS[2], math.max(redis.call('TTL', KEYS[1]), 1))
    end
  end
  if ARGV[5] ~= '' then redis.call('SREM', KEYS[2], ARGV[5]) end
end
return { known[1], known[2], tostring(messages), tostring(fits), unpack(redis.call('SMEMBERS', KEYS[2])) }
