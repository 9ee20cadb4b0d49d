"""What a task is, and what it is given: its context, its events, its timetable."""
