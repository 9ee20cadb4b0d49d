"""`Notifier`: what systemd gets to hear."""

from __future__ import annotations

import logging
import os
import socket
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrio._scheduler.systemd import Notifier

if sys.platform == "win32":
    pytest.skip("there is no systemd here", allow_module_level=True)

ABSTRACT = pytest.param(
    "abstract", marks=pytest.mark.skipif(sys.platform != "linux", reason="Linux")
)


class Manager:
    """What stands in for systemd: a socket, and the address that a service is told."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(5)
        self.socket.bind("\0" + address[1:] if address[0] == "@" else address)

    def heard(self) -> str:
        return self.socket.recv(10_000).decode()


@pytest.fixture
def short_path(tmp_path: Path) -> str:
    """A path in `tmp_path` that fits into an address, however deep `tmp_path` is."""
    path = str(tmp_path / "notify")
    if len(path) > 100:
        pytest.skip("the temporary directory is too deep for a socket")
    return path


@pytest.fixture(params=["path", ABSTRACT])
def manager(request: pytest.FixtureRequest, short_path: str) -> Iterator[Manager]:
    manager = Manager(short_path if request.param == "path" else f"@{uuid.uuid4()}")
    yield manager
    manager.socket.close()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    assert {record.name for record in caplog.records} <= {"orchestrio"}
    return [record.message for record in caplog.records if record.levelno == logging.WARNING]


def test_each_state_is_one_datagram(manager: Manager) -> None:
    with Notifier({"NOTIFY_SOCKET": manager.address}) as notifier:
        assert notifier.enabled
        assert notifier.ready()
        assert notifier.watchdog()
        assert notifier.status("all is well")
        assert notifier.stopping()
        assert notifier.notify("MAINPID=42\nFDSTORE=1")
    assert [manager.heard() for _ in range(5)] == [
        "READY=1",
        "WATCHDOG=1",
        "STATUS=all is well",
        "STOPPING=1",
        "MAINPID=42\nFDSTORE=1",
    ]


def test_the_environment_of_the_process_is_the_default(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
    with Notifier() as notifier:
        assert notifier.ready()
    assert manager.heard() == "READY=1"


def test_a_status_is_one_line(manager: Manager) -> None:
    with Notifier({"NOTIFY_SOCKET": manager.address}) as notifier:
        notifier.status("first\nREADY=1\0\nlast")
    assert manager.heard() == "STATUS=first READY=1  last"


def test_a_status_fits_into_a_datagram_that_systemd_reads(manager: Manager) -> None:
    with Notifier({"NOTIFY_SOCKET": manager.address}) as notifier:
        assert notifier.status("\N{SNAKE}" * 100_000)
    heard = manager.heard()
    assert len(heard.encode()) <= 4096
    assert heard == "STATUS=" + "\N{SNAKE}" * 1000


def test_text_that_is_not_unicode_is_sent_as_far_as_it_is(manager: Manager) -> None:
    with Notifier({"NOTIFY_SOCKET": manager.address}) as notifier:
        assert notifier.status("file \udcff")
    assert manager.heard() == "STATUS=file ?"


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}])
def test_without_a_service_manager_nothing_happens(
    environ: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    with Notifier(environ) as notifier:
        assert not notifier.enabled
        assert not notifier.ready()
    assert warnings(caplog) == []


def test_a_socket_that_is_not_there_is_logged_once(
    short_path: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Notifier({"NOTIFY_SOCKET": short_path}) as notifier:
        assert notifier.enabled
        assert not notifier.ready()
        assert not notifier.watchdog()
    (warning,) = warnings(caplog)
    assert warning.startswith("the service manager was not notified: ")


def test_a_socket_that_died_is_used_again_when_it_is_back(
    manager: Manager, caplog: pytest.LogCaptureFixture
) -> None:
    with Notifier({"NOTIFY_SOCKET": manager.address}) as notifier:
        assert notifier.ready()
        manager.socket.close()
        assert not notifier.watchdog()
        assert not notifier.watchdog()
        if manager.address[0] == "/":
            os.unlink(manager.address)
        again = Manager(manager.address)
        assert notifier.watchdog()
        assert again.heard() == "WATCHDOG=1"
        again.socket.close()
    assert len(warnings(caplog)) == 1


def test_a_manager_that_does_not_read_blocks_nobody(
    manager: Manager, caplog: pytest.LogCaptureFixture
) -> None:
    with Notifier({"NOTIFY_SOCKET": manager.address}) as notifier:
        results = [notifier.watchdog() for _ in range(100_000)]
    assert results[0]
    assert not results[-1]
    assert len(warnings(caplog)) == 1


@pytest.mark.parametrize("address", ["vsock:2:1234", "relative/notify", "/" + "x" * 200])
def test_an_address_that_cannot_be_used_is_logged(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Notifier({"NOTIFY_SOCKET": address}) as notifier:
        assert not notifier.ready()
        assert not notifier.ready()
    assert len(warnings(caplog)) == 1


def test_an_unknown_kind_of_socket_disables(caplog: pytest.LogCaptureFixture) -> None:
    assert not Notifier({"NOTIFY_SOCKET": "vsock:2:1234"}).enabled
    assert "vsock:2:1234" in warnings(caplog)[0]


def test_without_unix_sockets_it_is_disabled(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr(socket, "AF_UNIX")
    assert not Notifier({"NOTIFY_SOCKET": "/run/systemd/notify"}).enabled
    assert len(warnings(caplog)) == 1


def test_without_any_socket_left_it_is_disabled(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_socket(*_: object) -> socket.socket:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(socket, "socket", no_socket)
    assert not Notifier({"NOTIFY_SOCKET": "/run/systemd/notify"}).enabled
    assert "Too many open files" in warnings(caplog)[0]


def test_a_closed_notifier_does_nothing(manager: Manager) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager.address})
    notifier.close()
    notifier.close()
    assert not notifier.enabled
    assert not notifier.ready()


def test_programs_that_are_started_do_not_get_the_socket(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[socket.socket] = []
    original = socket.socket

    def make(family: int, kind: int) -> socket.socket:
        made.append(original(family, kind))
        return made[-1]

    monkeypatch.setattr(socket, "socket", make)
    with Notifier({"NOTIFY_SOCKET": manager.address}):
        assert [(one.get_inheritable(), one.getblocking()) for one in made] == [(False, False)]


PID = str(os.getpid())


@pytest.mark.parametrize(
    ("environ", "interval"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "1"}, 5e-7),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": PID}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1" + PID}, None),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "x"}, None),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": ""}, None),
        ({"WATCHDOG_PID": PID}, None),
        ({"WATCHDOG_USEC": ""}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "1.5"}, None),
        ({"WATCHDOG_USEC": "1_000"}, None),
        ({"WATCHDOG_USEC": "\N{ARABIC-INDIC DIGIT SEVEN}"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "9" * 5000}, None),
        ({"WATCHDOG_USEC": str(2**64 - 1)}, None),
    ],
)
def test_the_watchdog_wants_to_hear_twice_in_its_time(
    environ: dict[str, str], interval: float | None
) -> None:
    assert Notifier(environ).watchdog_interval == interval
