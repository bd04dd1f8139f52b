"""What runs inside Redis, as Lua: each script is one step that happens wholly or not at all.

Owns the texts. Every key that a script touches is in KEYS, whole (prefix included), so that on a cluster a hash tag in
the prefix puts them all in one slot. A script that removes and writes looks at the types of its keys first and
removes first: Redis lets a script that has begun to write go on when memory is full, and nothing after it can fail.
A script that would only overwrite begins with removing what is not there (`''`), for the same reason.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

__all__ = ["ACK", "DUE", "LEASE", "MOVE", "NOW", "PUT_OFF", "QUARANTINE", "TAKE", "Script"]


class Script:
    """One script.

    Args:
        text: its Lua.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    def run(self, client: Any, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """Run it, and give its reply.

        Args:
            client: a `redis.Redis` that puts no prefix before keys.
            keys: whole keys.
            arguments: text, bytes or numbers.

        Raises:
            redis.exceptions.RedisError: the server cannot be reached, or refuses.
        """
        from redis.exceptions import NoScriptError

        try:
            return client.execute_command("EVALSHA", self.sha, len(keys), *keys, *arguments)
        except NoScriptError:
            return client.execute_command("EVAL", self.text, len(keys), *keys, *arguments)


NOW = """
local function now()
  local time = redis.call('TIME')
  return time[1] .. '.' .. string.format('%06d', time[2])
end
"""
"""Begins a script that asks for the time: `now()` is Redis's own, so that clocks of other machines do not matter."""

TAKE = Script(
    NOW
    + """
-- KEYS: unacked, unacked_index, quarantine, then the lists: all queues of the first priority, of the second, ...
-- ARGV: how many at most, 1 if queues take turns, the prefix of new tags, the number of the first, the queues' names
local most, turns, prefix, number = tonumber(ARGV[1]), ARGV[2] == '1', ARGV[3], tonumber(ARGV[4])
local queues = #ARGV - 4
local taken = {}
redis.call('HLEN', KEYS[1])
redis.call('ZCARD', KEYS[2])
redis.call('HLEN', KEYS[3])
local at = now()

local function is_message(raw)
  local ok, message = pcall(cjson.decode, raw)
  -- Python reads and writes what this decoder refuses, half of a surrogate pair for one: it is asked again there
  if not ok then return string.sub(raw, 1, 1) == '{' and string.sub(raw, -1) == '}' end
  if type(message) ~= 'table' or type(message.properties) ~= 'table' then return false end
  local tag = type(message.properties.delivery_tag)
  return tag == 'string' or tag == 'number'
end

local function take(list)
  local raw = redis.call('RPOP', KEYS[list])
  if not raw then return false end
  local place = (list - 4) % queues
  local queue, tag = ARGV[5 + place], prefix .. string.format('%d', number)
  number = number + 1
  local readable, failed = is_message(raw), nil
  if readable then
    failed = redis.pcall('HSET', KEYS[1], tag, '[' .. raw .. ',"",' .. cjson.encode(queue) .. ']')
    if type(failed) ~= 'table' then failed = redis.pcall('ZADD', KEYS[2], at, tag) end
  else
    failed = redis.pcall('HSET', KEYS[3], tag, #queue .. ':' .. queue .. raw)
  end
  if type(failed) == 'table' then
    redis.pcall('HDEL', KEYS[1], tag)
    redis.call('RPUSH', KEYS[list], raw)
    error(failed.err)
  end
  taken[#taken + 1] = list - 4
  taken[#taken + 1] = readable and tag or ''
  taken[#taken + 1] = readable and raw or tag
  return true
end

local function room() return #taken < 3 * most end

for first = 4, #KEYS, queues do
  local found = true
  while found and room() do
    found = false
    for list = first, first + queues - 1 do
      while room() and take(list) do
        found = turns
        if turns then break end
      end
    end
  end
end
return taken
"""
)
"""Take messages and record them as unacknowledged. Gives three values a message: its list's place, tag, text.

What cannot be a message goes to the quarantine: its tag is empty, and the text is its field there.
"""

ACK = Script(
    """
-- KEYS: unacked, unacked_index; ARGV: tags
local held = 0
for _, tag in ipairs(ARGV) do
  held = held + redis.call('HDEL', KEYS[1], tag)
  redis.call('ZREM', KEYS[2], tag)
end
return held
"""
)
"""Forget unacknowledged messages: they are done; gives how many still were unacknowledged."""

LEASE = Script(
    NOW
    + """
-- KEYS: unacked_index; ARGV: tags
local at, held = now(), 0
redis.call('ZREM', KEYS[1], '')
for _, tag in ipairs(ARGV) do
  if redis.call('ZSCORE', KEYS[1], tag) then
    redis.call('ZADD', KEYS[1], 'XX', at, tag)
    held = held + 1
  end
end
return held
"""
)
"""Say that these messages are still held; gives how many are still unacknowledged."""

PUT_OFF = Script(
    NOW
    + """
-- KEYS: unacked_index; ARGV: tag, the visibility timeout in seconds, seconds from now
redis.call('ZREM', KEYS[1], '')
local due = tonumber(now()) - tonumber(ARGV[2]) + tonumber(ARGV[3])
redis.call('ZADD', KEYS[1], 'XX', string.format('%.6f', due), ARGV[1])
return 1
"""
)
"""Have a message that nobody holds be looked at again after so many seconds."""

DUE = Script(
    NOW
    + """
-- KEYS: unacked, unacked_index; ARGV: the visibility timeout in seconds, how many at most
local bound = string.format('%.6f', tonumber(now()) - tonumber(ARGV[1]))
local tags = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', bound, 'LIMIT', 0, tonumber(ARGV[2]))
local found = {bound}
for _, tag in ipairs(tags) do
  found[#found + 1] = tag
  found[#found + 1] = redis.call('HGET', KEYS[1], tag) or ''
end
return found
"""
)
"""The messages whose holder has not been heard of for so long: a bound, then tag and record of each."""

MOVE = Script(
    """
-- KEYS: unacked, unacked_index, then lists
-- ARGV: tag, the highest score with which it may be moved ('' for any), RPUSH or LPUSH, then a text for each list
local tag, bound, push = ARGV[1], ARGV[2], ARGV[3]
local record = redis.call('HGET', KEYS[1], tag)
local score = redis.call('ZSCORE', KEYS[2], tag)
if bound ~= '' and score and tonumber(score) > tonumber(bound) then return 0 end
for list = 3, #KEYS do redis.call('LLEN', KEYS[list]) end
redis.call('ZREM', KEYS[2], tag)
if not record then return 0 end
redis.call('HDEL', KEYS[1], tag)
for list = 3, #KEYS do
  local pushed = redis.pcall(push, KEYS[list], ARGV[list + 1])
  if type(pushed) == 'table' then
    redis.call('HSET', KEYS[1], tag, record)
    redis.call('ZADD', KEYS[2], score or 0, tag)
    error(pushed.err)
  end
end
return 1
"""
)
"""Put an unacknowledged message back into its queues, if it still is one; gives 1 if so."""

QUARANTINE = Script(
    """
-- KEYS: unacked, unacked_index, quarantine; ARGV: tag, what to keep
redis.call('HLEN', KEYS[3])
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('HSET', KEYS[3], ARGV[1], ARGV[2])
return 1
"""
)
"""Set an unacknowledged message aside that turned out to be none."""
