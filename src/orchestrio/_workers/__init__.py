"""One task at work: from initialize() to shutdown(), and its place in the tree."""
