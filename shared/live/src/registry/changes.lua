-- New subscriptions to an item, and connections that have stopped watching it.
--
-- KEYS  1 watchers:{item}   2 watch_changes:{item}   3 unwatched:{item}
-- ARGV  1, 2 the end of the last read of keys 2 and 3 (us)   3 the maximum number of each, at most 500
--
-- Returns the end of this read for both keys, the number of stopped connections, their ids, and then pairs of a new
-- subscription's connection and its value.
local function since(key, last)
  local found = redis.call('ZRANGE', key, '(' .. last, '+inf', 'BYSCORE', 'LIMIT', 0, ARGV[3], 'WITHSCORES')
  local names = {}
  for i = 1, #found, 2 do
    names[#names + 1] = found[i]
    last = found[i + 1]
  end
  return names, last
end
local began, began_last = since(KEYS[2], ARGV[1])
local stopped, stopped_last = since(KEYS[3], ARGV[2])
local reply = { began_last, stopped_last, tostring(#stopped) }
for _, name in ipairs(stopped) do reply[#reply + 1] = name end
if #began > 0 then
  local known = redis.call('HMGET', KEYS[1], unpack(began))
  for i, name in ipairs(began) do
    if known[i] then
      reply[#reply + 1] = name
      reply[#reply + 1] = known[i]
    end
  end
end
return reply
