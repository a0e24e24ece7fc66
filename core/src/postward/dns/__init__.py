"""DNS with its security told apart: secure, insecure, absent, failed (RFC 4035 §4.3, RFC 7672 §2.1.1)."""

from postward.dns.answer import Answer, DnsFailure, Resolver, Status

__all__ = ["Answer", "DnsFailure", "Resolver", "Status"]
