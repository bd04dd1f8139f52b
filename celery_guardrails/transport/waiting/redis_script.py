"""The Lua scripts for waiting on Redis: store, list what is due, move, remove.

    guardrails.waiting:           sorted set of entry ids, by the instant at which they are due (Redis's own clock)
    guardrails.waiting.messages:  entry id -> JSON [list, queue], a line break, the message's text

Owns the scripts and that form. All instants come from Redis's clock, so that other machines' clocks do not matter.
"""

from __future__ import annotations

from celery_guardrails.transport.redis.script import NOW, Script

__all__ = ["DROP", "FALLEN_DUE", "PUT", "RELEASE"]

PUT = Script(
    NOW
    + """
-- KEYS: waiting, messages; ARGV: seconds from now, then id and text of each entry
local due = string.format('%.6f', tonumber(now()) + tonumber(ARGV[1]))
for place = 2, #ARGV, 2 do
  if redis.call('HSETNX', KEYS[2], ARGV[place], ARGV[place + 1]) == 1 then
    redis.call('ZADD', KEYS[1], due, ARGV[place])
  end
end
return due
"""
)
"""Keep entries until they are due. Storing the same id again changes nothing."""

FALLEN_DUE = Script(
    NOW
    + """
-- KEYS: waiting, messages; ARGV: how many at most
local ids = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now(), 'LIMIT', 0, tonumber(ARGV[1]))
local found = {}
for _, id in ipairs(ids) do
  local text = redis.call('HGET', KEYS[2], id) or ''
  found[#found + 1] = id
  found[#found + 1] = string.sub(text, 1, (string.find(text, '\\n', 1, true) or 1) - 1)
end
return found
"""
)
"""The entries that are due: id and first line of each."""

RELEASE = Script(
    NOW
    + """
-- KEYS: waiting, messages, then lists
-- ARGV: 1 to move only what is due, then of each entry its id, its list's place (0: unknown) and a text ('': its own)
local at = now()
local moved = 0
for place = 2, #ARGV, 3 do
  local id, list, other = ARGV[place], tonumber(ARGV[place + 1]), ARGV[place + 2]
  local text, score = redis.call('HGET', KEYS[2], id), redis.call('ZSCORE', KEYS[1], id)
  if not text then
    redis.call('ZREM', KEYS[1], id)
  elseif score and (ARGV[1] ~= '1' or tonumber(score) <= tonumber(at)) then
    local length = list > 0 and redis.pcall('LLEN', KEYS[2 + list]) or {}
    if type(length) == 'table' then
      redis.call('ZADD', KEYS[1], string.format('%.6f', tonumber(at) + 60), id)
    else
      if other == '' then other = string.sub(text, string.find(text, '\\n', 1, true) + 1) end
      redis.call('ZREM', KEYS[1], id)
      redis.call('HDEL', KEYS[2], id)
      local pushed = redis.pcall('LPUSH', KEYS[2 + list], other)
      if type(pushed) == 'table' then
        redis.call('HSET', KEYS[2], id, text)
        redis.call('ZADD', KEYS[1], score, id)
        error(pushed.err)
      end
      moved = moved + 1
    end
  end
end
return moved
"""
)
"""Move entries to their lists, each only if it still waits. If its list cannot take it, it waits a further minute."""

DROP = Script(
    """
-- KEYS: waiting, messages; ARGV: ids
local gone = 0
for _, id in ipairs(ARGV) do
  redis.call('ZREM', KEYS[1], id)
  gone = gone + redis.call('HDEL', KEYS[2], id)
end
return gone
"""
)
"""Remove entries; gives how many existed."""
