"""What carries the topics of a bridge, in either mode."""
