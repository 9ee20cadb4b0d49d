"""Publish/subscribe: channels, the streams into and out of them, and the bus."""
