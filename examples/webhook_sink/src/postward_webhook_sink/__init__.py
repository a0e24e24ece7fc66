"""Counted results to an HTTPS endpoint, batched and durable."""
