"""The plugin: what was counted goes out, and core brings again what did not arrive."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel

from postward import Core, Domain, JournalEntry, PostwardError, ResultBatch, hookimpl
from postward_webhook_sink.payload import encode

_TOO_LARGE: Final = 413


def _https(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme != "https" or not parts.hostname or parts.username:
        raise ValueError("should be 'https://host/path', without a user")
    Domain(parts.hostname)
    return text


class NotTaken(PostwardError):
    """The endpoint did not take a batch; core tries it again."""


class WebhookSink:
    """Posts batches of results."""

    class Config(BaseModel, extra="forbid", frozen=True):
        """`[plugin.webhook_sink]`. `timeout` is seconds for one post."""

        url: Annotated[str, AfterValidator(_https)]
        token: str = ""
        timeout: float = 30.0

    def __init__(self, config: Config, core: Core) -> None:
        self._config, self._core = config, core
        parts = urlsplit(config.url)
        self._host, self._port = Domain(parts.hostname or ""), parts.port or 443
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")

    @hookimpl
    async def emit(self, batch: ResultBatch) -> None:
        """Post a batch. To return is to have it; to raise is to get it again."""
        await self._post(batch.node, batch.entries)

    async def _post(self, node: str, entries: Sequence[JournalEntry]) -> None:
        headers = {"content-type": "application/json"}
        if self._config.token:
            headers["authorization"] = f"Bearer {self._config.token}"
        answer = await self._core.http.request(
            "POST",
            self._host,
            self._target,
            port=self._port,
            headers=headers,
            body=encode(node, entries),
            timeout=self._config.timeout,
            head_only=True,
        )
        if answer.status == _TOO_LARGE and len(entries) > 1:
            middle = len(entries) // 2
            await self._post(node, entries[:middle])
            await self._post(node, entries[middle:])
        elif not 200 <= answer.status < 300:
            raise NotTaken(f"{self._config.url} answered {answer.status}")
