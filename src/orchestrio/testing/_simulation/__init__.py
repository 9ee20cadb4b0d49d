"""A simulation: whole programs under a seed, with faults, held against rules; see `simulate`."""
