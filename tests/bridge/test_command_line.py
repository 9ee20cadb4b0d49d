"""``python -m orchestrio.redis``: what it prints, how it ends, and what it never shows."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from redis_server import RedisServer, free_port

STREAM = "{shop:orders}"
DEAD = f"{STREAM}:dead"
DATA = '{"number": 1.10, "text": "\\u00e9", "none": [], "some": [1, {}]}'


def event(data: str = DATA) -> str:
    return (
        '{"specversion":"1.0","id":"AbCd_-127","source":"/shop/orders","type":"orders"'
        f',"time":"2026-11-26T12:18:30.123Z","datacontenttype":"application/json","data":{data}}}'
    )


def bury(server: RedisServer, message: str | None = None, *, error: str = "OSError: never") -> str:
    found = server.ask(
        *("XADD", DEAD, "MAXLEN", 3, "*", "error", error, "entry", "1-1", "deliveries", 5),
        *("group", "workers", "n", 3, "m", event() if message is None else message),
    )
    assert isinstance(found, bytes)
    return found.decode()


def run(*words: str, stdin: str = "", **environment: str) -> tuple[int, list[str], str]:
    """Return the exit status, the lines printed, and what was said of errors."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "orchestrio.redis", *words],
        input=stdin,
        capture_output=True,
        encoding="utf-8",
        env=os.environ | {"PYTHONIOENCODING": "utf-8"} | environment,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout.splitlines(), done.stderr


# -- dead letters ----------------------------------------------------------------------------


def test_where_there_is_nothing_it_says_so(server: RedisServer) -> None:
    where = (server.url, "shop", "orders")
    assert run("dead", "list", *where) == (
        1,
        ["no dead letters"],
        "the server has no topic 'orders' in 'shop'\n",
    )
    assert run("dead", "show", *where, "1-1") == (1, [], "1-1: there is no such dead letter\n")
    assert run("dead", "requeue", *where, "--all") == (1, ["0 dead letters put back"], "")
    assert run("groups", "list", *where) == (1, ["no groups"], "")
    assert run("groups", "drop", *where, "workers") == (1, [], "there is no group 'workers'\n")


def test_a_list_has_the_last_and_counts_all(server: RedisServer) -> None:
    for error in ("KeyError: 1", "OSError: \x1b[31mred\nmore", "OSError: b", "ValueError: c"):
        last = bury(server, error=error)
    status, lines, said = run("dead", "list", server.url, "shop", "orders", "--limit", "2")
    assert (status, said) == (0, "")
    assert lines[0].split() == ["ID", "BURIED", "DELIVERIES", "GROUP", "ERROR"]
    assert [line.split(maxsplit=5)[5] for line in lines[1:3]] == ["OSError: b", "ValueError: c"]
    assert lines[2].startswith(last)
    assert lines[3:] == [
        "",
        "3 dead letters, 2 shown, newest last; by error:",
        "       2  OSError",
        "       1  ValueError",
        "1 older ones are gone: the server keeps a limited number",
    ]
    _, lines, _ = run("dead", "list", server.url, "shop", "orders")
    assert "\x1b" not in "".join(lines)
    assert lines[1].endswith("OSError: \\x1b[31mred")
    status, lines, _ = run("dead", "list", server.url, "shop", "orders", "--json")
    told = json.loads("".join(lines))
    assert (told["total"], told["trimmed"], told["by_error"]) == (
        3,
        1,
        {"OSError": 2, "ValueError": 1},
    )
    assert told["letters"][2]["id"] == last
    assert told["letters"][2]["buried_at"].endswith("Z")
    assert "message" not in told["letters"][2]


def test_one_is_shown_whole_and_as_it_was_written(server: RedisServer) -> None:
    id = bury(server, error="OSError: never\n  at line 2")
    status, lines, said = run("dead", "show", server.url, "shop", "orders", id)
    assert (status, said) == (0, "")
    assert lines[0] == f"id          {id}"
    assert lines[6:10] == [
        "error       OSError: never",
        "              at line 2",
        "message",
        "{",
    ]
    assert lines[-10:] == [
        '  "data": {',
        '    "number": 1.10,',
        '    "text": "\\u00e9",',
        '    "none": [],',
        '    "some": [',
        "      1,",
        "      {}",
        "    ]",
        "  }",
        "}",
    ]
    assert json.loads("".join(lines[9:])) == json.loads(event())
    status, lines, _ = run("dead", "show", server.url, "shop", "orders", id, "--json")
    assert status == 0
    assert f'"message": {event()}}}' in "".join(lines)
    assert json.loads("".join(lines))["deliveries"] == 5


@pytest.mark.parametrize("message", ["", "{", '"\x1b[31m', "[" * 50_000, 'x"y'])
def test_what_is_no_json_is_shown_too(server: RedisServer, message: str) -> None:
    id = bury(server, message)
    status, lines, _ = run("dead", "show", server.url, "shop", "orders", id)
    assert status == 0
    assert "\x1b" not in "".join(lines)
    status, lines, _ = run("dead", "show", server.url, "shop", "orders", id, "--json")
    assert status == 0
    assert json.loads("".join(lines))["message"] == message


def test_those_that_are_named_are_put_back_or_dropped(server: RedisServer) -> None:
    server.ask("XGROUP", "CREATE", STREAM, "workers", "0", "MKSTREAM")
    first, second, third = bury(server), bury(server), bury(server)
    where = (server.url, "shop", "orders")
    assert run("dead", "requeue", *where, first, "--json") == (
        0,
        [json.dumps({"done": [first], "refused": {}})],
        "",
    )
    assert run("dead", "requeue", *where, "--every-group", second) == (
        0,
        ["1 dead letters put back"],
        "",
    )
    assert ["group" in entry for entry in server.entries(STREAM)] == [True, False]
    assert run("dead", "drop", *where, first, third) == (
        1,
        ["1 dead letters dropped"],
        f"{first}: there is no such dead letter\n",
    )
    assert server.entries(DEAD) == []


def test_all_are_put_back_or_dropped(server: RedisServer) -> None:
    where = (server.url, "shop", "orders")
    bury(server)
    bad = bury(server, "no JSON")
    status, lines, said = run("dead", "requeue", *where, "--all", "--every-group")
    assert (status, lines) == (1, ["1 dead letters put back"])
    assert said.startswith(f"{bad}: it cannot be put back")
    bury(server)
    assert run("dead", "drop", *where, "--all") == (0, ["2 dead letters dropped"], "")


# -- groups ----------------------------------------------------------------------------------


def test_groups_are_listed_and_dropped(server: RedisServer) -> None:
    where = (server.url, "shop", "orders")
    server.ask("XGROUP", "CREATE", STREAM, "old", "0", "MKSTREAM")
    server.ask("XGROUP", "CREATE", STREAM, "workers", "0")
    server.ask("ZADD", f"{STREAM}:workers:alive", 1_795_695_510_123 + 10**11, "one")  # the future
    status, lines, _ = run("groups", "list", *where)
    assert status == 0
    assert [line.split(maxsplit=4) for line in lines] == [
        ["GROUP", "ALIVE", "PENDING", "LAG", "LAST HEARD OF"],
        ["old", "0", "0", "0", "never"],
        ["workers", "1", "0", "0", "2030-01-26 22:05:10Z"],
    ]
    told = json.loads("".join(run("groups", "list", *where, "--json")[1]))
    assert told["groups"][1]["last_heartbeat"] == "2030-01-26T22:05:10.123Z"
    status, lines, said = run("groups", "drop", *where, "workers")
    assert (status, lines) == (1, [])
    assert said.endswith(
        "1 of its consumers are alive. Stop their bridges first, or add --force.\n"
    )
    assert run("groups", "drop", *where, "old") == (0, ["group 'old' was dropped"], "")
    assert run("groups", "drop", *where, "workers", "--force")[0] == 0
    assert server.all_keys() == [STREAM]


# -- how it is called ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "required: WHAT"),
        (["dead"], "required: COMMAND"),
        (["dead", "list"], "required: URL, NAMESPACE, TOPIC"),
        (["dead", "list", "http://x", "shop", "orders"], "not a URL of a Redis server"),
        (["dead", "list", "redis://x", "shop", ""], "its key is empty"),
        (["dead", "list", "redis://x", "shop", "orders", "--limit", "0"], "--limit"),
        (["dead", "requeue", "redis://x", "shop", "orders"], "or --all?"),
        (["dead", "drop", "redis://x", "shop", "orders", "1-1", "--all"], "or --all?"),
        (["dead", "drop", "redis://x", "shop", "orders", "--json", "1-1", "--al"], "or --all?"),
        (["dead", "list", "redis://x", "shop", "orders", "1-1"], "unrecognized arguments: 1-1"),
        (
            ["dead", "list", "env:NOT_THERE", "shop", "orders"],
            "no environment variable 'NOT_THERE'",
        ),
        (["dead", "list", "-", "shop", "orders"], "not a URL of a Redis server"),
    ],
)
def test_what_is_called_wrongly_says_how_to(words: list[str], said: str) -> None:
    status, lines, complaint = run(*words)
    assert (status, lines) == (2, [])
    assert complaint.startswith("usage: python -m orchestrio.redis")
    assert said in complaint


def test_identifiers_may_come_after_options(server: RedisServer) -> None:
    first, second = bury(server), bury(server)
    status, _, _ = run("dead", "drop", server.url, "shop", "orders", "--json", first, second)
    assert status == 0


def test_the_url_may_come_where_no_one_sees_it(server: RedisServer) -> None:
    bury(server)
    for url, given in (("env:MY_URL", {"MY_URL": server.url}), ("-", {"stdin": f"{server.url}\n"})):
        status, _, _ = run("dead", "list", url, "shop", "orders", **given)
        assert status == 0


@pytest.mark.parametrize(
    "words",
    [
        ["dead", "list", "redis://me:TOP@SECRET@127.0.0.1:PORT", "shop", "orders"],
        ["dead", "list", "redis://me:TOP@SECRET@127.0.0.1:port", "shop", "orders"],
        ["dead", "list", "redis://me:TOP@SECRET@127.0.0.1:99999", "shop", "orders"],
        ["dead", "list", "shop", "orders", "x", "redis://me:TOP@SECRET@127.0.0.1:PORT"],
        ["dead", "redis://me:TOP@SECRET@127.0.0.1:PORT", "list", "shop", "orders"],
        ["dead", "show", "shop", "orders", "x", "redis://me:TOP@SECRET@127.0.0.1:PORT"],
    ],
)
def test_no_error_shows_a_secret(words: list[str]) -> None:
    status, lines, said = run(*(word.replace("PORT", str(free_port())) for word in words))
    assert status in (1, 2)
    assert lines == []
    assert said
    assert "SECRET" not in said


def test_what_the_server_refuses_says_what_to_do(server: RedisServer) -> None:
    server.ask("ACL", "SETUSER", "me", "on", ">pw", "~*", "-@all", "+eval", "+evalsha")
    words = ("dead", "list", f"redis://me:pw@127.0.0.1:{server.port}", "shop", "orders")
    status, _, said = run(*words)
    assert status == 1
    assert "give the user this right (ACL SETUSER)" in said
    server.ask("ACL", "SETUSER", "me", "resetpass", ">other")
    status, _, said = run(*words)
    assert status == 1
    assert said.endswith("check username and password\n")
    assert len(said.splitlines()) == 1


def test_a_terminal_that_knows_few_signs_is_no_error(server: RedisServer) -> None:
    bury(server, error="OSError: é")
    where = (server.url, "shop", "orders")
    status, lines, _ = run("dead", "list", *where, PYTHONIOENCODING="ascii")
    assert status == 0
    assert lines[1].endswith("OSError: \\xe9")


def test_one_who_reads_a_line_alone_ends_it_quietly(server: RedisServer) -> None:
    id = bury(server, event('"' + "x" * 900_000 + '"'))
    command = f"'{sys.executable}' -m orchestrio.redis dead show {server.url} shop orders {id}"
    done = subprocess.run(
        ["sh", "-c", f"{command} | head -n 1"], capture_output=True, text=True, check=False
    )
    assert done.stdout == f"id          {id}\n"
    assert done.stderr == ""


def test_help_says_how_to_hide_a_password() -> None:
    status, lines, _ = run("dead", "requeue", "--help")
    assert status == 0
    assert any("env:NAME" in line for line in lines)


def test_without_coredis_the_extra_is_named() -> None:
    check = (
        "import sys, runpy; sys.modules['coredis'] = None;"
        "runpy.run_module('orchestrio.redis', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, check=False
    )
    assert "pip install 'orchestrio[redis]'" in done.stderr.splitlines()[-1]
