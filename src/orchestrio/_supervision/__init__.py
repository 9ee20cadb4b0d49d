"""Who runs the tasks: starts and restarts, stops, dependencies, the watchdog."""
