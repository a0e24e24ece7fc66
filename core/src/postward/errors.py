"""Every exception that Postward raises on purpose.

A protocol failure is not an exception but data (`postward.model.Failure`); these are for callers that were wrong, for
configuration that cannot be used, and for peers that left the protocol.
"""

from __future__ import annotations

from typing import ClassVar


class PostwardError(Exception):
    """The root of all errors raised on purpose. Its text is one line, fit for an operator.

    A `routine` one is our own word to ourselves: where it passes through a plugin, that plugin has not failed.
    """

    routine: ClassVar[bool] = False


class InvalidName(PostwardError, ValueError):
    """A text that is no domain name, no address literal, or no mail address."""


class ConfigError(PostwardError):
    """A configuration that cannot be used.

    `file` and `key` say where (`key` is a dotted path, empty for the whole file); `hint` names the nearest right name.
    """

    def __init__(self, message: str, *, file: str = "", key: str = "", hint: str = "") -> None:
        self.message, self.file, self.key, self.hint = message, file, key, hint
        where = ": ".join(part for part in (file, key) if part)
        super().__init__(f"{where}: {message}" if where else message)

    def __str__(self) -> str:
        text = super().__str__()
        return f"{text}; did you mean {self.hint!r}?" if self.hint else text


class PluginError(PostwardError):
    """A plugin that cannot be used as it is: unknown, incompatible, or breaking the hook contract."""

    def __init__(self, plugin: str, message: str) -> None:
        self.plugin, self.message = plugin, message
        super().__init__(f"plugin {plugin!r}: {message}")


class StoreError(PostwardError):
    """The database cannot be used: missing, locked for too long, of a newer version, or full."""


class TryLater(PostwardError):
    """Something outside cannot be asked just now, such as a name server. `ReportJob.targets` raises it to be asked again."""
