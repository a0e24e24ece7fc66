"""SMTP, both sides: sans-IO machines and the trio shells around them (RFC 5321)."""
