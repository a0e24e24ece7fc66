"""DMARC (RFC 9989, 9990, 9991) for Postward."""
