"""The two ends of a channel that users hold: where they send, and where they receive."""
