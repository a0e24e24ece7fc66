"""MTA-STS (RFC 8461) for Postward.

The record and the policy file can be read without the plugin: `postward_mtasts.record.parse`, `postward_mtasts.policy.parse`.
"""
