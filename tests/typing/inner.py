"""Asks for a name that the stubs do not have: shows which types a checker read. Never run."""

from orchestrio._tasks.task import name_of

print(name_of)
