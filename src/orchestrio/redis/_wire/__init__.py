"""What lies in a server, and how it looks: keys, entries, dead letters."""
