"""Who may talk to the server, over what, and that no secret is ever shown."""

from __future__ import annotations

import subprocess
import sys
import traceback
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import pytest
import trustme
from anyio import Event, fail_after, sleep_forever
from processes import Inbox, process
from pydantic import SecretStr, ValidationError
from redis_server import RedisServer, free_port
from support import IN_TIME, until

from orchestrio import (
    ChannelConfig,
    InvalidChannelError,
    Scheduler,
    TaskExecutionError,
    TaskInitializationError,
    Topic,
)
from orchestrio.redis import RedisBridge, RedisSettings

NUMBERS = Topic("numbers", int)
SECRET = "p@ss/w:rd"
ESCAPED = "p%40ss%2Fw%3Ard"


def bridge(url: str | RedisSettings) -> RedisBridge:
    return RedisBridge(url, topics=[NUMBERS], namespace="test")


def shown(error: BaseException, caplog: pytest.LogCaptureFixture) -> str:
    """All that was said: the traceback with its causes, and each log record."""
    records = [record.getMessage() + str(record.exc_info) for record in caplog.records]
    return "".join(traceback.format_exception(error)) + "\n".join(records)


# -- credentials -----------------------------------------------------------------------------


@pytest.fixture
def guarded(server: RedisServer) -> RedisServer:
    """A server that knows one user, who may do what a bridge does, in its namespace."""
    server.ask(
        *("ACL", "SETUSER", "bridge", "on", f">{SECRET}", "~{test:*", "+@all", "-@dangerous"),
    )
    server.ask("ACL", "SETUSER", "default", "resetpass", ">admin")
    return server


@pytest.mark.parametrize("by_url", [True, False])
async def test_credentials_are_taken_from_the_url_or_the_settings(
    guarded: RedisServer, *, by_url: bool
) -> None:
    inbox = Inbox[int]()
    where: str | RedisSettings = f"redis://bridge:{ESCAPED}@127.0.0.1:{guarded.port}/0"
    if not by_url:
        where = RedisSettings(
            host="127.0.0.1", port=guarded.port, username="bridge", password=SecretStr(SECRET)
        )
    async with process(bridge(where), NUMBERS, inbox.put) as publisher:
        await publisher.publish(NUMBERS, 1)
        assert await inbox.wait_for(1) == [1]


async def test_a_wrong_password_ends_the_start_and_is_not_shown(
    guarded: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    url = f"redis://bridge:wrong{ESCAPED}@127.0.0.1:{guarded.port}/0"
    with pytest.raises(TaskInitializationError, match="WRONGPASS|invalid username") as raised:
        async with process(bridge(url), NUMBERS):
            pass
    said = shown(raised.value, caplog)
    assert "wrong" + SECRET not in said
    assert ESCAPED not in said


async def test_a_right_that_is_missing_ends_the_task(guarded: RedisServer) -> None:
    """It would not come by waiting."""
    url = f"redis://bridge:{ESCAPED}@127.0.0.1:{guarded.port}/0"
    with pytest.raises(TaskExecutionError) as raised:
        async with Scheduler() as scheduler:
            scheduler.add_channel(NUMBERS)
            scheduler.register_background_task(bridge(url))
            await scheduler.start()
            guarded.ask("ACL", "SETUSER", "bridge", "-@write", before=["AUTH", "admin"])
            await scheduler.publish(NUMBERS, 1)
            with fail_after(IN_TIME):
                await scheduler.run()
    (at_the_end,) = raised.value.shutdown_errors  # its shutdown() fails for the same reason
    errors = (raised.value, at_the_end)
    assert all("can't run this command" in str(e) or "permissions" in str(e) for e in errors)


async def test_secrets_are_not_shown_during_an_outage(
    guarded: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    url = f"redis://bridge:{ESCAPED}@127.0.0.1:{guarded.port}/0"
    secret = Topic("texts", str)
    carrier = RedisBridge(url, topics=[secret], namespace="test")
    config = ChannelConfig(overflow="block")
    inbox = Inbox[str]()
    async with process(carrier, secret, inbox.put, config=config) as publisher:
        guarded.kill()
        await until(lambda: carrier.statistics().outages >= 1)
        await publisher.publish(secret, "the body of the message")
        everything = ["~*", "+@all"]
        guarded.start(
            *("--user", "default", "on", ">admin", *everything),
            *("--user", "bridge", "on", f">{SECRET}", *everything),
        )
        await inbox.wait_for(1)
    said = shown(Exception(), caplog) + repr(carrier) + repr(carrier.statistics())
    assert "does not answer" in said
    assert SECRET not in said
    assert ESCAPED not in said
    assert "the body" not in said


def test_settings_do_not_show_the_password() -> None:
    settings = RedisSettings.from_url(f"rediss://me:{ESCAPED}@example.org:7000/3")
    assert settings.password is not None
    assert settings.password.get_secret_value() == SECRET
    assert (settings.host, settings.port, settings.database) == ("example.org", 7000, 3)
    assert settings.tls
    assert (
        SECRET
        not in f"{settings} {settings!r} {settings.model_dump()} {settings.model_dump_json()}"
    )


@pytest.mark.parametrize(
    "url",
    [
        "redis://me:TOP/SE@CRET@host",
        "http://me:TOPSECRET@host",
        "redis://me:TOPSECRET@",
        "redis://me:TOPSECRET@host:port",
        "redis://me:TOPSECRET@host:99999",
        "redis://me:TOPSECRET@host/words",
        "redis://me:TOPSECRET@host/0?max_connections=7",
        "me:TOPSECRET@host:6379",
        "redis://[me:TOPSECRET@host",
    ],
)
def test_a_url_that_is_none_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(ValueError) as raised:
        bridge(url)
    said = "".join(traceback.format_exception(raised.value))
    assert "TOP" not in said.replace(repr(url), "").replace(url, "")
    assert "URL" in str(raised.value) or "port" in str(raised.value)


@pytest.mark.parametrize(
    ("url", "fields"),
    [
        ("valkey://h", {"host": "h"}),
        ("valkeys://:pw@[::1]:7/3", {"host": "::1", "port": 7, "database": 3, "tls": True}),
        (
            "redis+sentinel://u:pw@a,b:2/my%2Fmain/3",
            {"sentinels": ("a:26379", "b:2"), "service": "my/main", "database": 3},
        ),
        ("rediss+sentinel://a/main", {"sentinels": ("a:26379",), "service": "main", "tls": True}),
        ("redis+cluster://u:pw@a,[::2]:4", {"cluster": ("a:6379", "[::2]:4")}),
        ("valkeys+cluster://a", {"cluster": ("a:6379",), "tls": True}),
    ],
)
def test_urls_of_other_servers(url: str, fields: dict[str, object]) -> None:
    found = RedisSettings.from_url(url).model_dump(exclude_defaults=True)
    assert fields.items() <= found.items()
    assert ("password" in found) == ("pw" in url)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("redis://a,b", "one host"),
        ("redis+sentinel://a,b", "names the primary"),
        ("redis+sentinel://a/main/one", "a number"),
        ("redis+cluster://a/3", "no database but 0"),
        ("redis+ring://a", "not a URL"),
    ],
)
def test_urls_that_contradict_themselves(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        RedisSettings.from_url(url)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"sentinels": ("a",)}, "sentinels and service go together"),
        ({"service": "main"}, "sentinels and service go together"),
        ({"cluster": ("a",), "socket": "/s"}, "one of socket, sentinels and cluster"),
        ({"cluster": ("a b",)}, "host:port"),
        ({"cluster": ("redis://a",)}, "host:port"),
        ({"sentinel_password": "pw"}, "are for sentinels"),
    ],
)
def test_settings_that_contradict_each_other(fields: dict[str, object], why: str) -> None:
    with pytest.raises(ValidationError, match=why) as raised:
        RedisSettings.model_validate({**fields, "password": SECRET})
    assert SECRET not in str(raised.value)


def test_the_url_of_a_socket() -> None:
    settings = RedisSettings.from_url("unix:///run/redis%20one.sock")
    assert settings.socket == "/run/redis one.sock"
    assert str(settings) == "Redis at /run/redis one.sock, database 0"


async def test_a_socket_of_the_file_system(server: RedisServer, tmp_path: Path) -> None:
    server.kill()
    with TemporaryDirectory() as folder:  # whose path is short enough for a socket
        server.start("--unixsocket", f"{folder}/redis.sock")
        inbox = Inbox[int]()
        async with process(bridge(f"unix://{folder}/redis.sock"), NUMBERS, inbox.put) as publisher:
            await publisher.publish(NUMBERS, 1)
            assert await inbox.wait_for(1) == [1]


# -- TLS -------------------------------------------------------------------------------------


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls_port(server: RedisServer, authority: trustme.CA, tmp_path: Path) -> int:
    """A port of the server that speaks TLS, and asks for a certificate."""
    certificate = authority.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    port = free_port()
    try:
        for name, value in {
            "tls-cert-file": tmp_path / "cert.pem",
            "tls-key-file": tmp_path / "key.pem",
            "tls-ca-cert-file": tmp_path / "ca.pem",
            "tls-port": port,
        }.items():
            server.ask("CONFIG", "SET", name, str(value))
    except ConnectionError:  # it has crashed
        pytest.skip("this server was built without TLS")
    return port


async def test_tls_with_certificates_on_both_sides(
    tls_port: int, authority: trustme.CA, tmp_path: Path
) -> None:
    authority.issue_cert("client").private_key_and_cert_chain_pem.write_to_path(
        tmp_path / "client.pem"
    )
    inbox = Inbox[int]()
    settings = RedisSettings(
        port=tls_port, tls=True, tls_ca=tmp_path / "ca.pem", tls_certificate=tmp_path / "client.pem"
    )
    async with process(bridge(settings), NUMBERS, inbox.put) as publisher:
        await publisher.publish(NUMBERS, 1)
        assert await inbox.wait_for(1) == [1]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_a_server_that_cannot_be_trusted_gets_nothing(
    server: RedisServer, tls_port: int, tmp_path: Path, host: str
) -> None:
    """Its certificate is of an unknown authority, or for another name; waiting would not help."""
    server.ask("CONFIG", "SET", "tls-auth-clients", "no")
    ca = None if host == "localhost" else tmp_path / "ca.pem"
    settings = RedisSettings(host=host, port=tls_port, tls=True, tls_ca=ca)
    with pytest.raises(TaskInitializationError, match="cannot be trusted"):
        async with process(bridge(settings), NUMBERS):
            pass
    assert server.all_keys() == []


async def test_who_shows_no_certificate_is_told_that_one_is_wanted(
    tls_port: int, tmp_path: Path
) -> None:
    settings = RedisSettings(port=tls_port, tls=True, tls_ca=tmp_path / "ca.pem")
    with pytest.raises(TaskInitializationError, match="cannot be trusted: .*certificate required"):
        async with process(bridge(settings), NUMBERS):
            pass


# -- what a bridge takes ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("namespace", ""),
        ("mode", "both"),
        ("max_bytes", 0),
        ("max_length", 0),
        ("max_length", 2**62),
        ("max_dead_letters", 2**70),
        ("prefetch", 0),
        ("claim_after", 0),
        ("claim_after", 1e306),
        ("max_deliveries", 0),
        ("lease", 0),
        ("lease", 1e17),
        ("outbox", "out\0box"),
        ("leese", 1),
    ],
)
def test_an_option_that_is_not_valid_is_named(field: str, value: object) -> None:
    options: dict[str, object] = {"topics": [NUMBERS], "namespace": "test", field: value}
    with pytest.raises(ValidationError, match=rf"^1 .* for RedisBridge\(\)\n{field}\n"):
        RedisBridge("redis://localhost", **options)  # type: ignore[arg-type]  # that is the point


@pytest.mark.parametrize("mode", ["broadcast", "compete"])
async def test_the_server_takes_the_most_that_is_valid(
    server: RedisServer, mode: Literal["broadcast", "compete"]
) -> None:
    most = 10**12
    carrier = RedisBridge(
        server.url,
        topics=[NUMBERS],
        namespace="test",
        mode=mode,
        max_length=most,
        max_dead_letters=most,
        claim_after=most,
        lease=most,
        max_deliveries=1,
    )
    async with process(carrier, NUMBERS) as scheduler:
        scheduler.on(NUMBERS, on_error="skip")(fail)
        working = Event()

        @scheduler.background(singleton=True)
        async def work() -> None:
            working.set()
            await sleep_forever()

        with fail_after(IN_TIME):
            await working.wait()
        await scheduler.publish(NUMBERS, 1)
        server.ask("XADD", "{test:numbers}", "*", "v", "no message")
        await until(lambda: carrier.statistics().buried == (2 if mode == "compete" else 1))


async def fail(_: int) -> None:
    raise ValueError


def test_every_option_that_is_not_valid_is_named_at_once() -> None:
    with pytest.raises(ValidationError) as raised:
        RedisBridge("redis://localhost", topics=[NUMBERS], namespace="", lease=0, prefetch=0)
    assert [error["loc"] for error in raised.value.errors()] == [
        ("namespace",),
        ("prefetch",),
        ("lease",),
    ]


def test_a_bridge_needs_a_namespace() -> None:
    with pytest.raises(TypeError, match="namespace"):
        RedisBridge("redis://localhost", topics=[NUMBERS])  # type: ignore[call-arg]  # the point


class Opaque:
    """Something that Pydantic knows nothing of."""


@pytest.mark.parametrize("topic", [Topic("opaque", Opaque), Topic(("orders", 7), int)])
def test_a_topic_that_cannot_leave_the_process_is_refused(topic: Topic[object]) -> None:
    with pytest.raises(InvalidChannelError, match="cannot go to other processes") as raised:
        RedisBridge("redis://localhost", topics=[topic], namespace="test")
    assert raised.value.event == topic


@pytest.mark.parametrize("topics", ["numbers", []])
def test_topics_are_a_list_of_some(topics: list[str]) -> None:
    with pytest.raises(ValueError, match="at least one topic"):
        RedisBridge("redis://localhost", topics=topics, namespace="test")


def test_without_coredis_the_error_names_the_extra() -> None:
    check = "import sys; sys.modules['coredis'] = None; import orchestrio.redis"
    run = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
    assert run.stderr.endswith(
        "ImportError: orchestrio.redis needs coredis, which is an extra:"
        " pip install 'orchestrio[redis]'\n"
    )


def test_the_package_alone_does_not_import_coredis() -> None:
    check = "import sys, orchestrio; print('coredis' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
    assert run.stdout == "False\n"
