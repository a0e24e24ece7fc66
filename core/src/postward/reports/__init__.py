"""Reports on their way out: windows, the outbox, mail and HTTPS."""
