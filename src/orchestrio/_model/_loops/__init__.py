"""What one event loop does otherwise than another: how tasks wait in it, and its clock."""
