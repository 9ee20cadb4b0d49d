"""What was published and is not in a server yet: in memory, or in a file."""
