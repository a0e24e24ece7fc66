"""A weekly mail to the postmaster: how much mail went over TLS, and what failed."""
