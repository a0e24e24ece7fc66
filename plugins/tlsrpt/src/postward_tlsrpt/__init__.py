"""SMTP TLS reporting (RFC 8460) for Postward.

Records and reports can be read without the plugin: `postward_tlsrpt.record.parse`, `postward_tlsrpt.report.parse`.
"""
