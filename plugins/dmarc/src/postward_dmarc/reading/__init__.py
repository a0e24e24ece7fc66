"""Reading what others report about our domains: aggregate reports (RFC 9990, RFC 7489) and failure reports (RFC 9991)."""
