"""DKIM (RFC 6376): keys, signing, verifying."""
