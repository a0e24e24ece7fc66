"""MTA-STS (RFC 8461) for Postward."""
