"""What a run of a simulation is held against: what was seen of it, and the rules."""
