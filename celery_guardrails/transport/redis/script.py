"""The Lua scripts that Redis runs: each is one step, which happens wholly or not at all.

Owns the texts. Every key that a script touches is in KEYS, whole (prefix included), so that on a cluster a hash tag in
the prefix puts them all in one slot. A script that removes and writes first checks the types of its keys, then removes,
then writes: when memory is full, Redis refuses the first write of a script, but not a removal nor the writes after it.
A script that would only write begins by removing a member that does not exist (`''`), for the same reason.
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
        """Run the script; returns its reply.

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
"""The start of a script that needs the time: `now()` is Redis's own, so that clocks of other machines do not matter."""

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
  -- Python reads some texts that this decoder refuses (half of a surrogate pair, say): Python decides about those
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
"""Take messages and record them as unacknowledged. Returns three values a message: its list's place, tag, text.

An item that is not a message goes to the quarantine: its tag is empty, and its text is its field in the quarantine.
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
"""Acknowledge messages; returns how many of them still were unacknowledged."""

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
"""Renew the leases of messages; returns how many of them are still unacknowledged."""

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
"""Set a message that nobody holds to be due again after so many seconds."""

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
"""The messages whose lease was not renewed for so long: returns a bound, then tag and record of each."""

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
"""Put a message back into its queues, if it is still unacknowledged; returns 1 if so, else 0."""

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
"""Move an unacknowledged item that is not a message into the quarantine; returns 1 if it was there, else 0."""
