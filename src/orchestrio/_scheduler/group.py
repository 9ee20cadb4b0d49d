"""`Group`: tasks that start, fail and stop together; the scheduler is the outermost one.

Everything that is registered anywhere is registered with a group.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Mapping
from datetime import timedelta, tzinfo
from typing import Any, Final, Generic, Literal, cast, overload

from typing_extensions import TypeVar, Unpack

from .._broadcast._streams.receive import BroadcastReceiveStream
from .._broadcast.bus import EventBus, subscribe_until_closed
from .._model.arguments import (
    CronArguments,
    EveryArguments,
    GroupArguments,
    merged,
    options_of,
    require_meant_for,
)
from .._model.errors import LifecycleError
from .._model.refusals import in_short, invalid, require_instance
from .._model.settings import (
    BackgroundOptions,
    RestartPolicy,
    Strategy,
    TaskDefaults,
    TaskMetadata,
    TaskOptions,
)
from .._model.snapshots import TaskId
from .._model.topics import Topic, require_event
from .._model.words import in_words
from .._supervision.commands import Commands
from .._supervision.supervisor import Supervisor
from .._tasks.bridge import Bridge
from .._tasks.checks import require_async, require_task
from .._tasks.periodic import PeriodicTask
from .._tasks.registry import RegisteredTask, TaskRegistry
from .._tasks.task import (
    BackgroundFunction,
    BackgroundTask,
    EventFunction,
    EventTask,
    Subscriber,
    event_of,
)
from .._tasks.timetables import Cron, FixedDelay, FixedRate, Timetable
from .._workers.background_worker import BackgroundWorker
from .._workers.event_worker import EventWorker
from .._workers.tree import Branch
from .._workers.worker import Worker

__all__ = ["Group"]

E = TypeVar("E", bound=Hashable, default=Hashable)
T = TypeVar("T")
R = TypeVar("R", bound=Awaitable[object])
B = TypeVar("B", bound=Callable[[], Awaitable[object]])

_NO_OPTIONS: Final = TaskMetadata.model_construct()


class Group(Generic[E]):
    """Tasks, and groups of tasks, that start, fail and stop together: a branch of supervision.

    Made by `group`; a `Scheduler` is the outermost group, the root of the supervision tree. Its
    tasks start in the order of registration and stop in reverse. `strategy` says who is restarted
    when one of them is. A task that fails more often than its policy allows, or has none, is a
    failure of its group; and to that, the policy of the group applies.

    Example::

        from orchestrio import RestartPolicy, Scheduler, current_task_context

        scheduler = Scheduler()
        storage = scheduler.group("storage", strategy="one_for_all")

        @storage.background(restart=RestartPolicy(initial_delay=0))
        async def database() -> None:
            if current_task_context().run == 1:
                raise ConnectionError("lost")
            print("connected again")  # connected again

        scheduler.run_sync()
    """

    def __init__(
        self,
        branch: Branch,
        supervisor: Supervisor[E],
        bus: EventBus[E],
        defaults: Mapping[str, Any],
    ) -> None:
        self._branch = branch
        self._supervisor = supervisor
        self._commands = Commands(supervisor)
        self._bus = bus
        self._defaults = defaults

    def __repr__(self) -> str:
        return f"<Group {self.name!r}: {len(self._branch.children)} tasks and groups>"

    @property
    def name(self) -> str:
        """Its name, unique in its scheduler."""
        return self._branch.name

    def group(
        self,
        name: str,
        *,
        strategy: Strategy = "one_for_one",
        restart: RestartPolicy | None = None,
        significant: bool = False,
        defaults: TaskDefaults | None = None,
    ) -> Group[E]:
        """Make a group in this one; it has this place in the order of start.

        :param name: its name, unique in its scheduler; tasks may depend on it by that name
        :param strategy: who is restarted with one of its tasks or groups: nobody else
            (``"one_for_one"``), all of this group (``"one_for_all"``), or those that were
            registered after it (``"rest_for_one"``)
        :param restart: when the group as a whole is restarted, after a failure that it could not
            deal with by itself; `None`: never, and such a failure is one of the group around it
        :param significant: whether the group around it ends when this one ends by itself
        :param defaults: options that tasks in it take if they do not say otherwise, on top of those
            of the groups around it; an explicit `None` is one
        :return: the group
        :raises LifecycleError: if the name is taken, this group has ended, or the scheduler is
            stopping
        :raises ~pydantic.ValidationError: if an argument is not valid; it names it
        """
        checked = GroupArguments.model_validate(
            {
                "name": name,
                "strategy": strategy,
                "restart": restart,
                "significant": significant,
                "defaults": defaults,
            }
        )
        branch = self._supervisor.add_group(
            name, self._branch, strategy, checked.restart, significant
        )
        return Group(
            branch,
            self._supervisor,
            self._bus,
            merged(self._defaults, options_of(checked.defaults)),
        )

    async def stop(self) -> None:
        """Stop all its tasks and groups, as `Scheduler.stop_task` does; the others go on.

        Nothing in it is started any more, until `restart`: to register in it, or to restart one of
        its tasks, is an error. A task of it that calls this asks for it and returns at once. If it
        is cancelled, the stop goes on. Before the start, there is nothing to stop.

        :raises LifecycleError: on the scheduler itself, which is stopped with ``shutdown()``
        :raises TaskShutdownError: if one ``shutdown()`` fails
        :raises ExceptionGroup: of the `TaskShutdownError` of each, if several do
        """
        await self._commands.stop_group(self._branch)

    async def restart(self) -> None:
        """Stop all its tasks and groups and start them again, as `Scheduler.restart_task` does.

        All of them begin anew, also those that had ended or were stopped, and what had failed
        before does not count any more.

        :raises LifecycleError: on the scheduler itself, if the scheduler does not run, if the group
            was removed or one around it has ended, or if it is stopped meanwhile
        :raises InvalidChannelError: if an event has no channel any more
        :raises TaskShutdownError: if one ``shutdown()`` fails; they are started again all the same
        :raises ExceptionGroup: of the `TaskShutdownError` of each, if several do
        """
        await self._commands.restart_group(self._branch)

    async def remove(self) -> None:
        """Stop all its tasks and groups, as `stop` does, and forget them: the names are free again.

        :raises LifecycleError: on the scheduler itself
        :raises TaskShutdownError: if one ``shutdown()`` fails; all are removed all the same
        :raises ExceptionGroup: of the `TaskShutdownError` of each, if several do
        """
        await self._commands.stop_group(self._branch, remove=True)

    def register_background_task(
        self,
        task: BackgroundTask,
        metadata: TaskMetadata | None = None,
        **options: Unpack[BackgroundOptions],
    ) -> TaskId:
        """Take over a background task.

        Before `start` it waits there; afterwards it is initialised at once, in the background,
        and a failure in it is a task failure like any other.

        :param task: the task
        :param metadata: its description, or
        :param options: the fields of one
        :return: its identity
        :raises LifecycleError: if the name is taken, a dependency is not registered (after
            `start`), the scheduler is stopping, what is given is no such task, or it is a bridge
            and a ``singleton``
        :raises ~pydantic.ValidationError: if an option is not valid; it names the field
        """
        require_task(task, BackgroundTask)
        kind = "bridge" if isinstance(task, Bridge) else "background"
        described = self._described(kind, "register_background_task()", metadata, options)
        if kind == "bridge" and described.singleton:
            raise LifecycleError(
                "a bridge cannot be a singleton: it carries topics in every process, and in those"
                " that wait for the lease would carry nothing. Register it with singleton=False."
            )
        return self._register_background(task, described)

    def _register_background(self, task: BackgroundTask, described: TaskMetadata) -> TaskId:
        return self._register(
            task,
            described,
            lambda entry: BackgroundWorker(entry, task, self._branch, self._supervisor),
        )

    def register_event_task(
        self,
        task: Subscriber[T],
        metadata: TaskMetadata | None = None,
        **options: Unpack[TaskOptions],
    ) -> TaskId:
        """Take over an event task; after `start` it is subscribed when this returns.

        :param task: the task, an `EventTask`
        :param metadata: its description, or
        :param options: the fields of one
        :return: its identity
        :raises InvalidChannelError: if its event has no channel (after `start`), or can be no key
        :raises LifecycleError: as `register_background_task` does, or if it is a ``singleton``
        :raises ~pydantic.ValidationError: if an option is not valid; it names the field
        """
        require_task(task, EventTask)
        call = "register_event_task()"
        return self._register_event(
            cast("EventTask[T]", task), self._described("event", call, metadata, options)
        )

    def _register_event(self, reader: EventTask[T], described: TaskMetadata) -> TaskId:
        def subscribe() -> BroadcastReceiveStream[T]:
            return subscribe_until_closed(self._bus, cast("Topic[T]", event_of(reader)))

        if described.singleton:
            raise LifecycleError(
                f"an event task cannot be a singleton, as {described.name or reader.default_name!r}"
                ' is to be: bridge its topic with mode="compete"'
            )
        return self._register(
            reader,
            described,
            lambda entry: EventWorker(entry, reader, subscribe, self._branch, self._supervisor),
        )

    @overload
    def background(self, function: B, /) -> B: ...
    @overload
    def background(
        self, function: None = None, /, **options: Unpack[BackgroundOptions]
    ) -> Callable[[B], B]: ...
    def background(
        self, function: B | None = None, /, **options: Unpack[BackgroundOptions]
    ) -> B | Callable[[B], B]:
        """Register the decorated async function as a background task.

        Without options, ``@scheduler.background`` will do.

        :param function: the function, where this is the decorator itself
        :param options: the fields of `TaskMetadata`; the name defaults to the function's
        :return: the decorator, which returns the function as it is
        :raises LifecycleError: as `register_background_task` does, or if it is no async function
        :raises ~pydantic.ValidationError: if an option is not valid
        """
        described = self._described("background", "background()", None, options)

        def register(function: B) -> B:
            require_async(function, "the function of a background task", 0)
            self._register_background(BackgroundFunction(function), described)
            return function

        return register if function is None else register(function)

    def every(
        self,
        seconds: float | timedelta,
        *,
        fixed: Literal["rate", "delay"] = "rate",
        **options: Unpack[TaskOptions],
    ) -> Callable[[B], B]:
        """Call the decorated async function every so many seconds, at once for the first time.

        It is a background task. Each call is a tick: ``attempt_timeout``, ``retries`` and
        ``on_error`` are for ticks what they are for messages, and the snapshot of the task counts
        them. The timetable goes on over restarts.

        :param seconds: how often, in seconds or as a `~datetime.timedelta`, more than 0; a delay may
            also be 0
        :param fixed: ``"rate"``: from begin to begin, without drift; a tick that takes longer than
            that costs those it runs into, which are counted as missed and not made up for.
            ``"delay"``: from the end of one to the begin of the next
        :param options: the fields of `TaskMetadata`; the name defaults to the function's
        :return: the decorator, which returns the function as it is
        :raises LifecycleError: as `background` does
        :raises ~pydantic.ValidationError: if an option is not valid, or `seconds` is no such time
        """
        checked = EveryArguments.model_validate({"fixed": fixed, "seconds": seconds})
        kind = FixedRate if fixed == "rate" else FixedDelay
        return self._periodic("every()", kind(checked.seconds), options)

    def cron(
        self, expression: str, *, tz: tzinfo | None = None, **options: Unpack[TaskOptions]
    ) -> Callable[[B], B]:
        """Call the decorated async function at the times of a cron expression; see `every`.

        Needs the extra: ``pip install 'orchestrio[cron]'``.

        :param expression: five fields as in crontab(5), such as ``"*/5 * * * *"``, or six with
            seconds first
        :param tz: the time zone; that of the system if not given
        :param options: the fields of `TaskMetadata`; the name defaults to the function's
        :return: the decorator, which returns the function as it is
        :raises ImportError: if the extra is not installed
        :raises LifecycleError: as `background` does
        :raises ~pydantic.ValidationError: if the expression, the time zone or an option is not valid
        """
        CronArguments.model_validate({"expression": expression, "tz": tz})
        try:
            timetable = Cron(expression, tz)
        except ValueError as error:
            raise invalid("cron()", "expression", expression, str(error)) from error
        return self._periodic("cron()", timetable, options)

    @overload
    def on(
        self, event: Topic[T], **options: Unpack[TaskOptions]
    ) -> Callable[[Callable[[T], R]], Callable[[T], R]]: ...
    @overload
    def on(
        self, event: E, **options: Unpack[TaskOptions]
    ) -> Callable[[Callable[[str], R]], Callable[[str], R]]: ...
    def on(
        self, event: Topic[T] | E, *given: object, **options: Unpack[TaskOptions]
    ) -> Callable[[Callable[..., R]], Callable[..., R]]:
        """Register the decorated async function as the handler of an event.

        :param event: the key
        :param given: nothing: the function is what is decorated
        :param options: the fields of `TaskMetadata`; the name defaults to the function's
        :return: the decorator, which returns the function as it is
        :raises InvalidChannelError: as `register_event_task` does
        :raises LifecycleError: as `register_background_task` does, or if it is no async function of
            one message
        :raises ~pydantic.ValidationError: if an option is not valid
        """
        require_event(event)
        if given:
            raise LifecycleError(
                f"on() takes the event alone, and its options by name, not {in_short(given[0])}: write"
                " @scheduler.on(topic), or scheduler.on(topic)(function)."
            )
        described = self._described("event", "on()", None, options)

        def register(function: Callable[..., R]) -> Callable[..., R]:
            require_async(function, f"the handler of {in_words(event)}", 1)
            self._register_event(EventFunction(event, function), described)
            return function

        return register

    def _periodic(self, call: str, timetable: Timetable, options: TaskOptions) -> Callable[[B], B]:
        described = self._described("periodic", call, None, options)

        def register(function: B) -> B:
            require_async(function, "the function of a periodic task", 0)
            task = PeriodicTask(function, timetable, described, self._supervisor.random)
            self._register_background(task, described)
            return function

        return register

    def _described(
        self,
        kind: str,
        call: str,
        metadata: TaskMetadata | None,
        options: TaskOptions | BackgroundOptions,
    ) -> TaskMetadata:
        """Return the description of a task, given whole or by its fields, with the defaults.

        A default is for tasks that it can be for; in what is given for one, it is a mistake.

        :param kind: see `require_meant_for`
        :param call: how users write the call
        """
        if metadata is None:
            given = cast("TaskOptions", options)
            metadata = TaskMetadata(**given) if given else _NO_OPTIONS
        else:
            require_instance(metadata, TaskMetadata, "the metadata of a task")
            if options:
                raise LifecycleError(
                    "give the metadata or its fields as keywords, not both:"
                    f" {', '.join(options)} beside {metadata!r}"
                )
        if metadata is not _NO_OPTIONS:
            require_meant_for(kind, call, metadata)
        if not self._defaults:
            return metadata
        own = options_of(metadata)
        taken = merged(self._defaults, own)
        others = {name: taken[name] for name in taken.keys() - own.keys()}
        if kind in ("event", "bridge"):
            others.pop("singleton", None)
        return metadata.model_copy(update=others) if others else metadata

    def _register(
        self,
        task: BackgroundTask | EventTask[T],
        metadata: TaskMetadata,
        give_worker: Callable[[RegisteredTask], Worker],
    ) -> TaskId:
        supervisor = self._supervisor
        supervisor.require_thread()
        if supervisor.is_stopping:
            raise LifecycleError("the scheduler is stopping: it takes no new tasks")
        registry: TaskRegistry[E] = supervisor.registry
        entry = registry.add(task, metadata)
        try:
            supervisor.adopt(give_worker(entry), self._branch)
        except BaseException:
            registry.remove(entry.task_id)
            raise
        return entry.task_id
