"""Reports: built once per window, kept in an outbox, sent to each address until it has them or a day has passed."""

from postward.reports.suppressions import FOR_EVER, Suppression, Suppressions

__all__ = ["FOR_EVER", "Suppression", "Suppressions"]
