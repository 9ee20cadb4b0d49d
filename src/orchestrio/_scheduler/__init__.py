"""What users hold: the scheduler and its groups, and what tells systemd of them."""
