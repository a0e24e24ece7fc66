"""DANE for SMTP (RFC 7672) for Postward."""
