-- Who has begun to watch an item, and who has stopped.
--
-- KEYS  1 watchers:{item}   2 watch_changes:{item}   3 unwatched:{item}
-- ARGV  1, 2 where the last reading of keys 2 and 3 ended (us)   3 the most of each, at most 500
--
-- Returns where this reading ends, twice, how many have stopped, who, and then pairs of who watches
-- and what is known of them.
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
