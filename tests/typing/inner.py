"""Makes what only the library makes: shows which types a checker read. Never run."""

from orchestrio import TaskContext

print(TaskContext())
