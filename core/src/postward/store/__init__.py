"""Databases: group commit, the journal, migrations."""
