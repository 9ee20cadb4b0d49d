"""When run() is over: not before all is done that somebody has registered, or that comes back."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest
from anyio import current_time, fail_after
from support import NEVER, NUMBERS, SOON, TroubleError, settle
from support.diary import Diary, Leisurely, Worker

from orchestrio import (
    BackgroundTask,
    EventTask,
    LifecycleError,
    Scheduler,
    TaskExecutionError,
    TaskState,
    Topic,
    current_task_context,
)


class Job(Worker):
    """Works for some seconds, calls a function as its last act, and returns."""

    def __init__(
        self,
        name: str,
        diary: Diary,
        seconds: float,
        last_act: Callable[[], object] = lambda: None,
    ) -> None:
        super().__init__(name, diary)
        self.seconds = seconds
        self.last_act = last_act

    async def execute(self) -> None:
        self.diary.note("work", self.name)
        await anyio.sleep(self.seconds)
        self.last_act()
        self.diary.note("done", self.name)


class SlowListener(EventTask[int]):
    """Takes ten seconds to begin."""

    @property
    def subscribed_event(self) -> Topic[int]:
        return NUMBERS

    async def initialize(self) -> None:
        await anyio.sleep(10)

    async def handle_event(self, event: int, /) -> None: ...


# -- tasks that come late --------------------------------------------------------------------------------


async def test_the_run_goes_on_for_a_task_registered_as_the_last_act_of_the_last_one(
    scheduler: Scheduler, diary: Diary
) -> None:
    def register() -> None:
        scheduler.register_background_task(Job("second", diary, 2), name="second")

    scheduler.register_background_task(Job("first", diary, 1, register))
    await scheduler.run()
    assert diary.when("done", "second") == [3]
    assert current_time() == 3


async def test_the_run_goes_on_along_a_chain_of_tasks_that_register_the_next_one(
    scheduler: Scheduler, diary: Diary
) -> None:
    def register(number: int) -> None:
        job = Job(f"job {number}", diary, 1, lambda: register(number + 1) if number < 9 else None)
        scheduler.register_background_task(job, name=f"job {number}")

    register(0)
    await scheduler.run()
    assert diary.who("done") == [f"job {number}" for number in range(10)]
    assert current_time() == 10


async def test_the_run_goes_on_for_a_task_registered_in_the_finally_of_the_last_one(
    scheduler: Scheduler, diary: Diary
) -> None:
    class Last(Job):
        async def execute(self) -> None:
            try:
                await super().execute()
            finally:
                job = Job("second", diary, 1)
                scheduler.register_background_task(job, name="second")

    scheduler.register_background_task(Last("first", diary, 0))
    await scheduler.run()
    assert diary.who("done") == ["first", "second"]


async def test_the_run_goes_on_for_a_task_registered_as_the_last_one_is_shut_down(
    scheduler: Scheduler, diary: Diary
) -> None:
    class Last(Leisurely):
        async def shutdown(self) -> None:
            scheduler.register_background_task(Job("second", diary, 1), name="second")
            await super().shutdown()

    task = scheduler.register_background_task(Last("first", diary, end=1))
    keep = scheduler.register_background_task(Job("keep", diary, 1.5), name="keep")
    async with scheduler:
        await scheduler.start()
        await anyio.sleep(1)
        await scheduler.stop_task(task)
        assert scheduler.status(keep).state is TaskState.COMPLETED
        await scheduler.run()
    assert diary.when("done", "second") == [2]


async def test_the_run_goes_on_for_a_task_that_waits_for_its_dependency(
    scheduler: Scheduler, diary: Diary
) -> None:
    def register() -> None:
        scheduler.register_background_task(Leisurely("slow", diary, begin=20), name="slow")
        late = Job("late", diary, 1)
        scheduler.register_background_task(late, name="late", depends_on=["slow"])

    scheduler.register_background_task(Job("first", diary, 1, register))
    with anyio.move_on_after(100):
        await scheduler.run()
    assert diary.when("done", "late") == [22]


async def test_a_task_that_the_last_words_of_the_last_one_call_for_is_refused_or_worked_off(
    scheduler: Scheduler, diary: Diary
) -> None:
    refused: list[LifecycleError] = []

    @scheduler.on(NUMBERS)
    async def listen(number: int) -> None:
        try:
            scheduler.register_background_task(Job("second", diary, 2), name="second")
        except LifecycleError as error:
            refused.append(error)

    first = Job("first", diary, 1, lambda: scheduler.bus.publish_nowait(NUMBERS, 1))
    scheduler.register_background_task(first)
    await scheduler.run()
    assert refused or diary.when("done", "second") == [3]


async def test_the_run_goes_on_while_a_late_task_is_initialised(
    scheduler: Scheduler, diary: Diary
) -> None:
    class Slow(Job):
        async def initialize(self) -> None:
            await anyio.sleep(50)
            await super().initialize()

    late = Slow("late", diary, 1)
    first = Job("first", diary, 1, lambda: scheduler.register_background_task(late, name="late"))
    scheduler.register_background_task(first)
    await scheduler.run()
    assert diary.when("done", "late") == [52]


async def test_the_run_of_event_tasks_alone_goes_on_for_a_background_task_that_comes(
    scheduler: Scheduler, diary: Diary
) -> None:
    @scheduler.on(NUMBERS)
    async def listen(number: int) -> None:
        job = Job("job", diary, 5)
        scheduler.register_background_task(job, name="job")
        scheduler.bus.remove_channel(NUMBERS)  # nothing else will come

    async with scheduler:
        await scheduler.start()
        await scheduler.publish(NUMBERS, 1)
        with fail_after(50):
            await scheduler.run()
    assert diary.when("done", "job") == [5]


# -- tasks that come back --------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [0, 3])
async def test_the_run_goes_on_when_the_only_task_restarts_itself(
    scheduler: Scheduler, diary: Diary, end: float
) -> None:
    class Again(Leisurely):
        async def execute(self) -> None:
            self.diary.note("work", self.name)
            await anyio.sleep(1)
            if current_task_context().run < 3:
                await scheduler.restart_task(current_task_context().task_id)
                await anyio.sleep_forever()

    task = scheduler.register_background_task(Again("again", diary, end=end))
    with fail_after(50):
        await scheduler.run()
    assert diary.who("work") == ["again"] * 3
    assert scheduler.status(task).restarts == 2


async def test_the_run_goes_on_when_the_only_task_returns_while_its_restart_is_asked_for(
    scheduler: Scheduler, diary: Diary
) -> None:
    class Returning(Job):
        async def execute(self) -> None:
            await current_task_context().stopping.wait() if self.seconds else None
            self.seconds = 0
            await super().execute()

    async with scheduler:
        task = scheduler.register_background_task(Returning("task", diary, 1))
        await scheduler.start()
        await settle()
        await scheduler.restart_task(task)
        with fail_after(50):
            await scheduler.run()
    assert diary.who("done") == ["task", "task"]


@pytest.mark.parametrize("how", ["stop", "remove"])
async def test_the_run_ends_when_the_last_task_is_stopped_while_it_comes_back(
    scheduler: Scheduler, diary: Diary, how: str
) -> None:
    async def interrupt() -> None:
        await anyio.sleep(5)
        await (scheduler.stop_task(task) if how == "stop" else scheduler.remove_task(task))

    async with anyio.create_task_group() as group, scheduler:
        slow = Leisurely("slow", diary, 1, begin=10)
        task = scheduler.register_background_task(slow, restart=SOON)
        await scheduler.start()  # until 10; it fails at 11, and begins anew at 12
        group.start_soon(interrupt)
        with fail_after(50):
            await scheduler.run()
        assert current_time() == 15
    assert len(diary.who("up")) == len(diary.who("down")) == 1


async def test_the_run_ends_with_the_failure_of_a_task_registered_as_the_last_act(
    scheduler: Scheduler, diary: Diary
) -> None:
    class Failing(BackgroundTask):
        async def execute(self) -> None:
            raise TroubleError("boom")

    first = Job("first", diary, 1, lambda: scheduler.register_background_task(Failing()))
    scheduler.register_background_task(first)
    with pytest.raises(TaskExecutionError, match="boom"):
        await scheduler.run()


async def test_the_run_ends_when_the_late_task_fails_and_nobody_minds(
    scheduler: Scheduler, diary: Diary
) -> None:
    class Failing(BackgroundTask):
        async def execute(self) -> None:
            await anyio.sleep(3)
            raise TroubleError("boom")

    def register() -> None:
        scheduler.register_background_task(Failing(), name="failing", restart=NEVER)

    scheduler.register_background_task(Job("first", diary, 1, register))
    await scheduler.run()
    assert current_time() == 4


@pytest.mark.parametrize("how", ["stop", "remove"])
async def test_the_run_ends_when_its_only_background_task_is_stopped_before_it_has_begun(
    scheduler: Scheduler, diary: Diary, how: str
) -> None:
    @scheduler.on(NUMBERS)
    async def listen(number: int) -> None: ...

    scheduler.register_event_task(SlowListener(), name="slow")
    task = scheduler.register_background_task(Worker("task", diary), depends_on=["slow"])

    async def interrupt() -> None:
        await anyio.sleep(1)
        await (scheduler.stop_task(task) if how == "stop" else scheduler.remove_task(task))

    async with anyio.create_task_group() as group:
        group.start_soon(interrupt)
        with fail_after(50):
            await scheduler.run()
    assert diary.entries == []
