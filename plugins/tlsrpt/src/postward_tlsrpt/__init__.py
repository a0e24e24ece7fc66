"""SMTP TLS reporting (RFC 8460) for Postward."""
