"""Groups: siblings that do not stop well when they are to be restarted."""

from __future__ import annotations

import anyio
import pytest
from anyio import current_time
from support import SOON, TroubleError
from support.diary import Diary, Worker, add

from orchestrio import Scheduler, TaskExecutionError, TaskShutdownError, current_task_context


async def test_a_sibling_that_hangs_in_shutdown_is_cut_and_restarted(
    scheduler: Scheduler, diary: Diary, caplog: pytest.LogCaptureFixture
) -> None:
    class Hanging(Worker):
        async def shutdown(self) -> None:
            await super().shutdown()
            if len(self.diary.when("down", "hanging")) == 1:
                await anyio.sleep_forever()

    group = scheduler.group("group", strategy="one_for_all")
    add(group, diary, "a")
    group.register_background_task(Hanging("hanging", diary), name="hanging", shutdown_timeout=5)
    add(group, diary, "failing", 1, restart=SOON)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(100)
        assert diary.when("down", "a") == [6], "its turn comes when the one before it was cut"
        assert diary.who("up") == ["a", "hanging", "failing"] * 2
        assert diary.when("up", "hanging") == [0, 6], "the back-off was over by then"
    assert "its shutdown() ran longer than shutdown_timeout (5 s)" in caplog.text


async def test_a_short_shutdown_timeout_holds_after_a_slow_shutdown_with_a_long_one(
    scheduler: Scheduler, diary: Diary
) -> None:
    class Slow(Worker):
        async def shutdown(self) -> None:
            await super().shutdown()
            if self.name == "hanging" and len(self.diary.when("down", "hanging")) == 1:
                await anyio.sleep_forever()
            await anyio.sleep(1)

    group = scheduler.group("group", strategy="one_for_all")
    group.register_background_task(Slow("hanging", diary), name="hanging", shutdown_timeout=2)
    slow = Slow("slow", diary, 1)
    group.register_background_task(slow, name="slow", shutdown_timeout=30, restart=SOON)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(100)
        assert diary.when("up", "hanging") == [0, 4]


async def test_a_sibling_that_ignores_its_cancellation_ends_the_run(
    scheduler: Scheduler, diary: Diary
) -> None:
    group = scheduler.group("group", strategy="one_for_all", restart=SOON)

    @group.background(stop_timeout=5)
    async def stubborn() -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(100)

    add(group, diary, "failing", 1, restart=SOON)
    what = "task 'stubborn' cannot be restarted: it was cancelled, and does not end"
    with pytest.raises((TaskExecutionError, ExceptionGroup)) as caught:
        await scheduler.run()
    error = caught.value
    if isinstance(error, ExceptionGroup):
        assert caught.group_contains(TaskExecutionError, match=what)
    else:
        assert what in str(error)
    assert diary.who("up") == ["failing"]
    assert current_time() == 100


async def test_a_sibling_that_ends_late_but_in_time_is_restarted(
    scheduler: Scheduler, diary: Diary
) -> None:
    group = scheduler.group("group", strategy="one_for_all")
    runs: list[tuple[int, float]] = []

    @group.background(stop_timeout=5)
    async def slow() -> None:
        runs.append((current_task_context().run, current_time()))
        with anyio.CancelScope(shield=True):
            await anyio.sleep(4)
        await anyio.sleep_forever()

    add(group, diary, "failing", 1, restart=SOON)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(100)
    assert runs == [(1, 0), (2, 4)]
    assert diary.when("up", "failing") == [0, 4]


async def test_a_sibling_that_heeds_stopping_may_finish_what_it_does(
    scheduler: Scheduler, diary: Diary
) -> None:
    group = scheduler.group("group", strategy="one_for_all")
    finished: list[float] = []

    @group.background()
    async def polite() -> None:
        await current_task_context().stopping.wait()
        await anyio.sleep(3)
        finished.append(current_time())

    add(group, diary, "failing", 1, restart=SOON)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(50)
        assert finished == [4]
        assert diary.when("up", "failing") == [0, 4]


async def test_a_shutdown_that_fails_in_a_group_restart_is_logged_and_not_raised(
    scheduler: Scheduler, diary: Diary, caplog: pytest.LogCaptureFixture
) -> None:
    class Messy(Worker):
        async def shutdown(self) -> None:
            await super().shutdown()
            if len(self.diary.when("down", self.name)) == 1:
                raise TroubleError("messy")

    group = scheduler.group("group", strategy="one_for_all")
    group.register_background_task(Messy("messy", diary), name="messy")
    add(group, diary, "failing", 1, restart=SOON)
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(100)
        assert diary.who("up") == ["messy", "failing"] * 2
    (record,) = [
        record for record in caplog.records if "messy" in record.message and record.exc_info
    ]
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], TaskShutdownError)
