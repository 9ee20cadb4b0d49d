"""What a soak is made of: a load, the books that are kept about it, and what is measured."""
