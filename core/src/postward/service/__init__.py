"""`postward run` as a service: sockets, worker processes, signals, and what systemd is told."""
