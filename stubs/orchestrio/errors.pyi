from .models import TaskId

__all__ = [
    "EventReceiveError",
    "EventSendError",
    "InvalidChannelError",
    "LaggedError",
    "LifecycleError",
    "SchedulerError",
    "TaskExecutionError",
    "TaskInitializationError",
    "TaskNotFoundError",
    "TaskShutdownError",
]

class SchedulerError(Exception): ...
class LifecycleError(SchedulerError): ...

class _TaskError(SchedulerError):
    task_id: TaskId
    task_name: str
    def __init__(self, message: str, task_id: TaskId, task_name: str) -> None: ...

class TaskInitializationError(_TaskError): ...
class TaskExecutionError(_TaskError): ...
class TaskShutdownError(_TaskError): ...

class TaskNotFoundError(SchedulerError):
    task_id: TaskId
    def __init__(self, message: str, task_id: TaskId) -> None: ...

class InvalidChannelError(SchedulerError):
    event: object
    def __init__(self, message: str, event: object) -> None: ...

class EventSendError(SchedulerError):
    event: object
    def __init__(self, message: str, event: object = None) -> None: ...

class EventReceiveError(SchedulerError): ...

class LaggedError(EventReceiveError):
    missed: int
    def __init__(self, message: str, missed: int) -> None: ...
