"""What the server does in one step for a topic, as Lua scripts; each says its keys and arguments.

The keys of a topic begin with the same ``{namespace:topic}``, so that a cluster keeps them together.
"""

from __future__ import annotations

from typing import Final

from .._server.connection import Script
from .._wire.envelope import VERSION
from .lua import ALSO_WHEN_FULL, FACTS, LAST, LOST, NOW, ORDINAL, SAME

__all__ = ["BURY", "JOIN", "OTHER_MODE", "PUBLISH", "WHERE"]

#: What the answer of `JOIN` begins with if the topic is carried in another mode.
OTHER_MODE: Final = "OTHERMODE"

JOIN: Final = Script(
    ALSO_WHEN_FULL
    + """
-- KEYS: stream, about, count; ARGV: mode, group ('' for none), birth as far as it is known, then as
-- far as that is known the ordinals of the last entry and of the last that somebody of the group has
-- got, how many were to come again when that was last asked, how many more since then, how many
-- silent consumers had, then the constants of the topic
-- Returns {1 if the topic was made here, its birth, the ordinal of its last entry, whose id}.
"""
    + NOW
    + ORDINAL
    + FACTS
    + LAST
    + LOST
    + """
local mode = redis.call('HGET', KEYS[2], 'mode')
if mode and mode ~= ARGV[1] then
    return redis.error_reply('OTHERMODE ' .. mode)
end
local made = 0
local head, got = tonumber(ARGV[4]), tonumber(ARGV[5])
local born = redis.call('HGET', KEYS[2], 'born')
local count = tonumber(redis.call('GET', KEYS[3]) or '0')
local there = redis.call('EXISTS', KEYS[1]) == 1
if not born then
    if there and count > 0 and ARGV[3] ~= '' then
        born = ARGV[3]  -- somebody has deleted no more than this key
    else
        made = 1
    end
end
if ARGV[2] ~= '' then
    local joined = false
    if there then
        for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
            joined = joined or facts_of(group)['name'] == ARGV[2]
        end
    end
    if not joined then
        local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
        first = first and ordinal(first) or count + 1
        local noted = redis.call('HGET', KEYS[2], 'got:' .. ARGV[2]) or ''
        local known = tonumber(string.match(noted, ' (%d+)$') or '0')
        if ARGV[3] == born then  -- what is known of another topic says nothing of this one
            got = math.max(known, got)
            known = got
        end
        if made == 0 and known > 0 and (first > known or count < known) then
            made = 1
            redis.call('HDEL', KEYS[2], 'got:' .. ARGV[2], 'gap:' .. ARGV[2], 'after')
            if first > known then  -- the ordinals go on: what comes after this is there
                redis.call('HSET', KEYS[2], 'after', string.format('%.0f', first - 1))
            end
        end
        redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[2], '0', 'MKSTREAM')
    end
end
if made == 1 then
    born = string.format('%.0f', now)
    if not there then  -- what is noted of any group is of a stream that is gone
        local old = redis.call('HGET', KEYS[2], 'old:' .. ARGV[2])
        redis.call('DEL', KEYS[2])
        if old then
            redis.call('HSET', KEYS[2], 'old:' .. ARGV[2], old)
        end
    end
end
if ARGV[2] ~= '' and ARGV[3] ~= '' and born ~= ARGV[3] then
    -- Each knows a part of how it stood: RENEW counts what was lost when all have told theirs.
    local again, since, silent = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
    local counted, at = 0, now
    head = tonumber(redis.call('HGET', KEYS[2], 'after') or head)
    local told, lost = lost_by(ARGV[2])
    if told and told[1] == tonumber(ARGV[3]) then
        head, got = math.max(head, told[2]), math.max(got, told[3])
        again, since = math.max(again, told[4]), since + told[5]
        silent, counted, at = math.max(silent, told[6]), told[7], told[8]
    elseif told then  -- it was lost twice, and the first time is still to be counted
        counted = told[7] - lost
    end
    tell_lost(ARGV[2], {tonumber(ARGV[3]), head, got, again, since, silent, counted, at})
end
redis.call('HSET', KEYS[2], 'mode', ARGV[1], 'born', born, unpack(ARGV, 9))
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
local id = #last > 0 and last[1][1] or last_given()
return {made, born, count, id}
"""
)
"""Make a topic and its consumer group, if they are not there; the group begins with what is in the
stream.
"""

PUBLISH: Final = Script(
    """
-- KEYS: stream, about, count, what was last taken from this origin
-- ARGV: birth, entries to keep (0: all), how long to remember the origin (ms), the origin, then number,
-- time, data, traceparent ('' for none) of each
-- A message whose number was taken before is not taken again: to send twice is safe.
-- Returns how many were new, and the ordinal of the last entry.
"""
    + SAME
    + """
local last = tonumber(redis.call('GET', KEYS[4]) or '0')
local trim = tonumber(ARGV[2])
local ordinal = tonumber(redis.call('GET', KEYS[3]) or '0')
local first = ordinal
for i = 5, #ARGV, 4 do
    local number = tonumber(ARGV[i])
    if number > last then
        last = number
        ordinal = ordinal + 1
        local entry = {
            'v', """
    + str(VERSION)
    + """, 'n', ordinal, 'id', ARGV[4] .. ARGV[i], 'time', ARGV[i + 1],
            'data', ARGV[i + 2]}
        if ARGV[i + 3] ~= '' then
            entry[11] = 'traceparent'
            entry[12] = ARGV[i + 3]
        end
        if trim == 0 then
            redis.call('XADD', KEYS[1], '*', unpack(entry))
        else
            redis.call('XADD', KEYS[1], 'MAXLEN', '~', trim, '*', unpack(entry))
        end
    end
end
if ordinal > first then
    redis.call('SET', KEYS[3], string.format('%.0f', ordinal))
    redis.call('SET', KEYS[4], string.format('%.0f', last), 'PX', ARGV[3])
end
return {ordinal - first, ordinal}
"""
)
"""Append messages to a stream, each with its ordinal."""

WHERE: Final = Script(
    ALSO_WHEN_FULL
    + """
-- KEYS: stream, about, count; ARGV: birth
-- Returns the ordinal of the last entry, and the last id that the stream gave.
"""
    + SAME
    + FACTS
    + LAST
    + """
return {tonumber(redis.call('GET', KEYS[3]) or '0'), last_given()}
"""
)
"""Tell whether a topic is still the one that it was, and how far it has come."""

BURY: Final = Script(
    ALSO_WHEN_FULL
    + """
-- KEYS: stream, dead letters, and tries, or without a group what was buried
-- ARGV: how many to keep, group ('' for none), id, then fields
-- Of several processes that move the same entry one does.
if ARGV[2] ~= '' then
    redis.call('HDEL', KEYS[3], ARGV[3], ARGV[3] .. '!', ARGV[3] .. '?')
    if redis.call('XACK', KEYS[1], ARGV[2], ARGV[3]) == 0 then
        return 0
    end
else
    if redis.call('ZADD', KEYS[3], 'NX', redis.call('TIME')[1], ARGV[3]) == 0 then
        return 0
    end
    redis.call('ZREMRANGEBYRANK', KEYS[3], 0, -10001)
end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[1], '*', unpack(ARGV, 4))
return 1
"""
)
"""Move an entry to the stream of dead letters."""
