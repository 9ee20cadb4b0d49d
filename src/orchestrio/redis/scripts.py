"""What the server does in one step, as Lua scripts; each says its keys and arguments.

The keys of a topic begin with the same ``{namespace:topic}``, so that a cluster keeps them together.
What consumers need runs in a server whose memory is full as well: to drain it is the only way out.
"""

from __future__ import annotations

from typing import Final

from .connection import Script

__all__ = [
    "ACQUIRE",
    "BURY",
    "CLAIM",
    "JOIN",
    "LEAVE",
    "OTHER_MODE",
    "PROLONG",
    "PUBLISH",
    "RECOVER",
    "RENEW",
    "SWEEP",
    "TELL",
    "WHERE",
]

#: What the answer of `JOIN` begins with if the topic is carried in another mode.
OTHER_MODE: Final = "OTHERMODE"

_ALSO_WHEN_FULL: Final = "#!lua flags=allow-oom\n"

#: The topic must be the one that was joined: what was read of another is nobody's to handle.
_SAME: Final = """
if redis.call('HGET', KEYS[2], 'born') ~= ARGV[1] then
    return redis.error_reply('MISSING the topic was lost in the server')
end
"""

_THERE: Final = """
if redis.call('EXISTS', KEYS[1]) == 0 then
    return redis.error_reply('MISSING the stream was lost in the server')
end
"""

_NOW: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

_ORDINAL: Final = """
local function ordinal(entry)
    for i = 1, #entry[2], 2 do
        if entry[2][i] == 'n' then return tonumber(entry[2][i + 1]) or 0 end
    end
    return 0
end
"""

_LAST: Final = """
-- Return the last id that the stream gave.
local function last_given()
    if redis.call('EXISTS', KEYS[1]) == 1 then
        local info = redis.call('XINFO', 'STREAM', KEYS[1])
        for i = 1, #info, 2 do
            if info[i] == 'last-generated-id' then return info[i + 1] end
        end
    end
    return '0-0'
end
"""

ACQUIRE: Final = Script("""
-- KEYS: lease, the last token; ARGV: who, for how long (ms)
-- Tokens go by the server's clock, so that they grow also if the last one is forgotten.
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
    return 0
end
local time = redis.call('TIME')
local token = time[1] * 1000000 + time[2]
local last = tonumber(redis.call('GET', KEYS[2]) or '0')
if token <= last then
    token = last + 1
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('SET', KEYS[2], string.format('%.0f', token))
return token
""")
"""Take a lease if nobody has it; return its fencing token, or 0."""

PROLONG: Final = Script("""
-- KEYS: lease; ARGV: who, for how long (ms); 0 gives it up
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
    return 0
end
if ARGV[2] == '0' then
    return redis.call('DEL', KEYS[1])
end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
""")
"""Keep a lease for longer, or give it up; return 0 if it was lost."""

JOIN: Final = Script(
    _ALSO_WHEN_FULL
    + """
-- KEYS: stream, about, count; ARGV: mode, group ('' for none), birth as far as it is known, the
-- ordinal of the last entry that somebody of the group has got, as far as that is known, then the
-- constants of the topic
-- Returns {1 if the topic was made here, its birth, the ordinal of its last entry, whose id, and how
-- many entries of the group were lost with the stream, -1 if that is not known here}.
"""
    + _NOW
    + _ORDINAL
    + _LAST
    + """
local mode = redis.call('HGET', KEYS[2], 'mode')
if mode and mode ~= ARGV[1] then
    return redis.error_reply('OTHERMODE ' .. mode)
end
local made, lost = 0, 0
local born = redis.call('HGET', KEYS[2], 'born')
local count = tonumber(redis.call('GET', KEYS[3]) or '0')
local there = redis.call('EXISTS', KEYS[1]) == 1
if not born then
    if there and count > 0 and ARGV[3] ~= '' then
        born = ARGV[3]  -- somebody has deleted no more than this key
    else
        made, lost = 1, -1
    end
end
if ARGV[2] ~= '' then
    local joined = false
    if there then
        for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
            joined = joined or group[2] == ARGV[2]
        end
    end
    if not joined then
        local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
        first = first and ordinal(first) or count + 1
        local noted = redis.call('HGET', KEYS[2], 'got:' .. ARGV[2]) or ''
        local got = math.max(tonumber(string.match(noted, ' (%d+)$') or '0'), tonumber(ARGV[4]))
        if made == 0 and got > 0 and first > got then
            made, lost = 1, first - 1 - got
            redis.call('HDEL', KEYS[2], 'got:' .. ARGV[2], 'gap:' .. ARGV[2])
        end
        redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[2], '0', 'MKSTREAM')
    end
end
if made == 1 then
    born = string.format('%.0f', now)
end
redis.call('HSET', KEYS[2], 'mode', ARGV[1], 'born', born, unpack(ARGV, 5))
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
local id = #last > 0 and last[1][1] or last_given()
return {made, born, count, id, lost}
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
    + _SAME
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
            'v', 2, 'n', ordinal, 'id', ARGV[4] .. ARGV[i], 'time', ARGV[i + 1],
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
    _ALSO_WHEN_FULL
    + """
-- KEYS: stream, about, count; ARGV: birth
-- Returns the ordinal of the last entry, and the last id that the stream gave.
"""
    + _SAME
    + _LAST
    + """
return {tonumber(redis.call('GET', KEYS[3]) or '0'), last_given()}
"""
)
"""Tell whether a topic is still the one that it was, and how far it has come."""

TELL: Final = Script(
    _ALSO_WHEN_FULL
    + """
-- KEYS: stream, about, tries, later
-- ARGV: birth, group, consumer, how many were handled, their ids, how many were begun, for each of
-- these its id and how many deliveries that makes, then for each that is to come again: id, in how
-- many ms, 1 if it could not be read, why ('': nothing), and how many deliveries began
-- What is not this consumer's any more does not come again through it.
"""
    + _SAME
    + _NOW
    + """
local group, consumer = ARGV[2], ARGV[3]
local at = 4
local count = tonumber(ARGV[at])
if count > 0 then
    local ids = {unpack(ARGV, at + 1, at + count)}
    redis.call('XACK', KEYS[1], group, unpack(ids))
    if redis.call('EXISTS', KEYS[3]) == 1 then
        for _, id in ipairs(ids) do
            redis.call('HDEL', KEYS[3], id, id .. '!', id .. '?')
        end
    end
    if redis.call('EXISTS', KEYS[4]) == 1 then
        redis.call('ZREM', KEYS[4], unpack(ids))
    end
end
at = at + count + 1
count = tonumber(ARGV[at])
for i = at + 1, at + 2 * count, 2 do
    if #redis.call('XPENDING', KEYS[1], group, ARGV[i], ARGV[i], 1) > 0 then
        redis.call('HSET', KEYS[3], ARGV[i], ARGV[i + 1])
    end
end
local lost = 0
for i = at + 2 * count + 1, #ARGV, 5 do
    local id = ARGV[i]
    if #redis.call('XPENDING', KEYS[1], group, id, id, 1, consumer) == 0 then
        -- it is another's
    elseif #redis.call('XRANGE', KEYS[1], id, id) == 0 then
        lost = lost + redis.call('XACK', KEYS[1], group, id)
        redis.call('HDEL', KEYS[3], id, id .. '!', id .. '?')
    else
        redis.call('XCLAIM', KEYS[1], group, '(later)', 0, id, 'JUSTID')
        redis.call('ZADD', KEYS[4], string.format('%.0f', now + ARGV[i + 1]), id)
        if ARGV[i + 2] == '1' then
            redis.call('HSETNX', KEYS[3], id .. '?', string.format('%.0f', now))
        end
        if ARGV[i + 3] ~= '' then
            redis.call('HSET', KEYS[3], id .. '!', ARGV[i + 3])
        end
        if ARGV[i + 4] == '0' then
            redis.call('HDEL', KEYS[3], id)
        else
            redis.call('HSET', KEYS[3], id, ARGV[i + 4])
        end
    end
end
return lost
"""
)
"""Note what was handled, what handlers have begun, and what is to come again; return how many of
these last are lost.

What is to come again waits with the consumer ``(later)`` until somebody claims it.
"""

RENEW: Final = Script(
    _ALSO_WHEN_FULL
    + """
-- KEYS: stream, about, count, alive, later; ARGV: birth, group, consumer, the id of the last entry
-- that it was the first to get, the ordinal of that
-- Returns the ordinal of the last entry, that of the last one that somebody has got (0 if that is
-- unknown), how many between that and the next are lost and were not told of, how many entries are
-- to come again, and how many consumers there are.
"""
    + _SAME
    + _THERE
    + _NOW
    + _ORDINAL
    + """
redis.call('ZADD', KEYS[4], string.format('%.0f', now), ARGV[3])
local head = tonumber(redis.call('GET', KEYS[3]) or '0')
local got, lost = 0, 0
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    local facts = {}
    for i = 1, #group, 2 do facts[group[i]] = group[i + 1] end
    if facts['name'] == ARGV[2] then
        local id = facts['last-delivered-id']
        local mark, gap = 'got:' .. ARGV[2], 'gap:' .. ARGV[2]
        local entries = redis.call('XRANGE', KEYS[1], id, '+', 'COUNT', 2)
        local after = head + 1
        if #entries > 0 and entries[1][1] == id then
            got = ordinal(entries[1])
            table.remove(entries, 1)
        elseif ARGV[4] == id then
            got = tonumber(ARGV[5])
        else
            local noted = redis.call('HGET', KEYS[2], mark)
            if noted and string.sub(noted, 1, #id + 1) == id .. ' ' then
                got = tonumber(string.sub(noted, #id + 2))
            end
        end
        redis.call('HSET', KEYS[2], mark, id .. ' ' .. string.format('%.0f', got))
        if #entries > 0 then
            after = ordinal(entries[1])
        end
        local told = tonumber(redis.call('HGET', KEYS[2], gap) or '0')
        if got > 0 and after > math.max(got + 1, told) then
            lost = after - math.max(got + 1, told)
            redis.call('HSET', KEYS[2], gap, string.format('%.0f', after))
        end
    end
end
return {head, got, lost, redis.call('ZCARD', KEYS[5]), redis.call('ZCARD', KEYS[4])}
"""
)
"""Say that a consumer is alive, and learn how its topic stands."""

_TAKE: Final = """
-- Claim an entry; return it, or nil, 1 if it was pending and is lost, and whether it is gone.
local function take(id, suspect, ...)
    local entry = redis.call('XRANGE', KEYS[1], id, id)
    if #entry == 0 then
        redis.call('HDEL', KEYS[3], id, id .. '!', id .. '?')
        return nil, redis.call('XACK', KEYS[1], ARGV[2], id), true
    end
    if #redis.call('XCLAIM', KEYS[1], ARGV[2], ARGV[3], 0, id, 'JUSTID', ...) == 0 then
        return nil, 0
    end
    local known = redis.call('HMGET', KEYS[3], id, id .. '!', id .. '?')
    local since = known[3] and now - known[3] or -1
    return {
        id, tonumber(known[1] or '0'), known[2] or '', since, suspect, entry[1][2]}, 0
end
"""

CLAIM: Final = Script(
    _ALSO_WHEN_FULL
    + """
-- KEYS: stream, about, tries, later, alive; ARGV: birth, group, consumer, how many, silence (ms)
-- Returns how many were lost, whether there may be more, and of each: id, how many deliveries
-- began, the last error, for how long (ms) it could not be read (-1: it was not tried), 1 if its
-- consumer died, fields.
"""
    + _SAME
    + _NOW
    + _TAKE
    + """
local room = tonumber(ARGV[4])
local lost, found = 0, {}
local due = redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', now, 'LIMIT', 0, room)
if #due > 0 then
    redis.call('ZREM', KEYS[4], unpack(due))
end
for _, id in ipairs(due) do
    local entry, gone, absent = take(id, 0, 'FORCE')  -- also if somebody has deleted '(later)'
    found[#found + 1] = entry
    lost = lost + (absent and 1 or gone)
end
local more = #due == room
if not more then
    local silent = redis.call(
        'ZRANGEBYSCORE', KEYS[5], '-inf', string.format('%.0f', now - ARGV[5]))
    for _, consumer in ipairs(silent) do
        while consumer ~= ARGV[3] and not more do
            local pending = redis.call(
                'XPENDING', KEYS[1], ARGV[2], '-', '+', math.min(room - #found, 100), consumer)
            for _, one in ipairs(pending) do
                local entry, gone = take(one[1], 1)
                found[#found + 1] = entry
                lost = lost + gone
            end
            if #pending == 0 then
                redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[2], consumer)
                redis.call('ZREM', KEYS[5], consumer)
                break
            end
            more = #found >= room
        end
    end
end
return {lost, more and 1 or 0, found}
"""
)
"""Take over what is due again, and what consumers have that have not been heard of for some time."""

RECOVER: Final = Script(
    _ALSO_WHEN_FULL
    + """
-- KEYS: stream, about, tries; ARGV: birth, group, consumer, after which id, how many
-- Returns as CLAIM does, and the id to go on after ('' for none).
"""
    + _SAME
    + _NOW
    + _TAKE
    + """
local lost, found, last = 0, {}, ''
for _, one in ipairs(
    redis.call('XPENDING', KEYS[1], ARGV[2], ARGV[4], '+', ARGV[5], ARGV[3])) do
    local entry, gone = take(one[1], 0)
    found[#found + 1] = entry
    lost = lost + gone
    last = '(' .. one[1]
end
return {lost, last, found}
"""
)
"""Return the entries that are this consumer's to handle, as far as the server knows."""

SWEEP: Final = Script(
    _ALSO_WHEN_FULL
    + """
-- KEYS: stream, later, alive; ARGV: group, age (ms)
-- Whoever has entries and never said that it is alive gets its time from now on; so do entries that
-- are to come again, and for which that is not noted. What every group has handled is removed.
-- Returns how many entries silent consumers have, and the other groups that have left entries of
-- such an age unhandled.
"""
    + _THERE
    + _NOW
    + """
local stamp, silent, put_off = string.format('%.0f', now), 0, 0
for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
    local facts = {}
    for i = 1, #consumer, 2 do facts[consumer[i]] = consumer[i + 1] end
    if facts['name'] == '(later)' then
        put_off = facts['pending']
        if facts['pending'] > redis.call('ZCARD', KEYS[2]) then
            for _, one in ipairs(
                redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 10000, '(later)')) do
                redis.call('ZADD', KEYS[2], 'NX', stamp, one[1])
            end
        end
    elseif facts['pending'] > 0 then
        redis.call('ZADD', KEYS[3], 'NX', stamp, facts['name'])
        if tonumber(redis.call('ZSCORE', KEYS[3], facts['name'])) < now - 3000 then
            silent = silent + facts['pending']
        end
    end
end
if put_off < redis.call('ZCARD', KEYS[2]) then  -- somebody has deleted that consumer
    for _, id in ipairs(redis.call('ZRANGE', KEYS[2], 0, 9999)) do
        redis.call('XCLAIM', KEYS[1], ARGV[1], '(later)', 0, id, 'FORCE', 'JUSTID')
    end
end
local function parts(id)
    local ms, number = string.match(id, '(%d+)-(%d+)')
    return tonumber(ms), tonumber(number)
end
local lowest
local idle = {}
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    local facts = {}
    for i = 1, #group, 2 do facts[group[i]] = group[i + 1] end
    local id = facts['last-delivered-id']
    local waits = redis.call('XRANGE', KEYS[1], '(' .. id, '+', 'COUNT', 1)[1]
    waits = waits and waits[1]
    if facts['pending'] > 0 then
        id = redis.call('XPENDING', KEYS[1], facts['name'])[2]
        waits = id
    end
    if facts['name'] ~= ARGV[1] and waits and parts(waits) < now - ARGV[2] then
        idle[#idle + 1] = facts['name']
    end
    if not lowest then
        lowest = id
    else
        local ms, number = parts(id)
        local low, lownumber = parts(lowest)
        if ms < low or (ms == low and number < lownumber) then lowest = id end
    end
end
if lowest then
    redis.call('XTRIM', KEYS[1], 'MINID', '~', lowest)
end
return {silent, idle}
"""
)
"""Find what nobody looks after, and remove what is done with."""

LEAVE: Final = Script(
    _ALSO_WHEN_FULL
    + """
-- KEYS: stream, later, alive; ARGV: group, consumer, then the ids that it keeps
"""
    + _NOW
    + """
local stamp = string.format('%.0f', now)
local keeps = {}
for i = 3, #ARGV do keeps[ARGV[i]] = true end
local from, lost = '-', 0
while from do
    local pending = redis.call('XPENDING', KEYS[1], ARGV[1], from, '+', 1000, ARGV[2])
    from = nil
    for _, one in ipairs(pending) do
        from = '(' .. one[1]
        if keeps[one[1]] then
            -- it is being handled
        elseif #redis.call('XRANGE', KEYS[1], one[1], one[1]) == 0 then
            lost = lost + redis.call('XACK', KEYS[1], ARGV[1], one[1])
        else
            redis.call('XCLAIM', KEYS[1], ARGV[1], '(later)', 0, one[1], 'JUSTID')
            redis.call('ZADD', KEYS[2], stamp, one[1])
        end
    end
end
if #ARGV == 2 then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
    redis.call('ZREM', KEYS[3], ARGV[2])
end
return lost
"""
)
"""Hand back what a consumer does not keep, to whoever comes first, and forget the consumer.

Returns how many of them are lost.
"""

BURY: Final = Script(
    _ALSO_WHEN_FULL
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
