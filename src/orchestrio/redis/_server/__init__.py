"""A session with the servers as they are: settings, connections, what passes and what does not."""
