"""How a change is made in Redis: one script, which runs there."""

# Replaces the value if no other process has since it was read; else returns the newest. Either way
# it returns the time, which is that of all the processes. A process far away would lose every race
# against those nearby: after some, it reserves a short time in which the others may not write.
CHANGE = """
local old, new, state, lifetime, wake, me, reservation = unpack(ARGV)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local version = redis.call('HGET', KEYS[1], 'version') or ''
local holder = redis.call('HGET', KEYS[1], 'holder')
if holder and holder ~= me then
  local left = tonumber(redis.call('HGET', KEYS[1], 'until')) - now
  if left > 0 and new ~= '' then return {2, time[1], time[2], left} end
end
if new ~= '' and version == old then
  redis.call('HSET', KEYS[1], 'version', new, 'state', state)
  redis.call('HDEL', KEYS[1], 'holder', 'until')
  redis.call('PEXPIRE', KEYS[1], lifetime)
  if wake == '1' then redis.call('PUBLISH', KEYS[1], '') end
  return {1, time[1], time[2]}
end
if reservation ~= '0' then
  redis.call('HSET', KEYS[1], 'holder', me, 'until', now + reservation)
end
return {0, time[1], time[2], version, redis.call('HGET', KEYS[1], 'state') or ''}
"""
