"""TLS judged after the handshake."""
