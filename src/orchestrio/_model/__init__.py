"""What everything else speaks of: settings, snapshots, errors and topics; and what event loops do."""
