"""What `conformance` finds, one kind of trouble after the other; and that the plugins that ship have none of it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
from pydantic import BaseModel

from postward import Core, Destination, Domain, Endpoint, Finding, Mode, MxHost, Schema, TlsPolicy, hookimpl
from postward.plugins import choose, installed, load_class
from postward.testing import NotConformant, conformance


class Made:
    def __init__(self, config: Any, core: Core) -> None:
        self.config, self.core = config, core


def problems_of(plugin: type[Any], **options: Any) -> tuple[str, ...]:
    with pytest.raises(NotConformant) as caught:
        conformance(plugin, **options)
    return caught.value.problems


@pytest.mark.parametrize(
    ("name", "options"), [("dane", {}), ("mtasts", {}), ("tlsrpt", {"organization": "Example"}), ("dmarc", {})]
)
def test_the_plugins_that_ship_conform(name: str, options: dict[str, Any]) -> None:
    conformance(load_class(choose(name, installed())), **options)


def test_a_plugin_that_does_its_work_conforms() -> None:
    class Fine(Made):
        class Config(BaseModel, extra="forbid", frozen=True):
            names: tuple[Domain, ...] = ()
            days: int = 398

        @hookimpl
        async def host_policy(self, mx: MxHost) -> TlsPolicy | None:
            await self.core.dns.query(mx.name, "TXT")
            return None

    conformance(Fine, names=["example.org"])


def test_what_cannot_be_registered_is_all_there_is_to_say() -> None:
    class Wrong(Made):
        @hookimpl
        async def host_polici(self, mx: MxHost) -> None: ...

    [problem] = problems_of(Wrong)
    assert "did you mean 'host_policy'" in problem


def test_annotations_are_compared_with_the_hook() -> None:
    class Wrong(Made):
        @hookimpl
        async def host_policy(self, mx: Endpoint) -> str | None:
            return None

        @hookimpl
        async def dns_checks(self, domain: str) -> list[Finding]:  # wider, and narrower: both are right
            return []

    assert problems_of(Wrong) == (
        "hook 'host_policy': argument 'mx' is annotated Endpoint, it is given MxHost",
        "hook 'host_policy' is annotated to return str | None, which is not TlsPolicy | None",
    )


def test_a_config_survives_being_written() -> None:
    class Loses(Made):
        class Config(BaseModel, extra="forbid", frozen=False):
            level: int = 0

            def __init__(self, level: int = 0) -> None:
                super().__init__(level=level + 1)

        @hookimpl
        async def host_policy(self) -> None: ...

    changed, again = problems_of(Loses, level=1)
    assert "frozen=True" in changed
    assert "written as TOML" in again


def test_what_fails_in_service_is_told_with_its_reason() -> None:
    class Fails(Made):
        @hookimpl
        async def domain_policy(self, destination: Destination) -> TlsPolicy | None:
            if destination.domain == "clear.test":
                raise ValueError("of the clear")
            return None

    [problem] = problems_of(Fails)
    assert problem == "hook 'domain_policy' failed in service: it raised ValueError: of the clear"


def test_a_hook_that_does_not_let_itself_be_cancelled_is_found() -> None:
    class Shields(Made):
        @hookimpl
        async def dns_checks(self, domain: Domain) -> Sequence[Finding] | None:
            if domain != "good.test":
                return None
            with trio.CancelScope(shield=True):
                await self.core.dns.query(domain, "TXT")
            return None

    problems = problems_of(Shields)
    assert "hook 'dns_checks' does not end when core cancels it" in problems
    assert "hook 'dns_checks' goes on behind its limit of 120 s" in problems


def test_a_hook_that_turns_cancellation_into_an_error_is_found() -> None:
    class Swallows(Made):
        @hookimpl
        async def host_policy(self, mx: MxHost) -> TlsPolicy | None:
            try:
                await self.core.dns.query(mx.name, "TXT")
            except trio.Cancelled:
                raise ValueError("gone wrong") from None
            return TlsPolicy(kind="x-y", mode=Mode.NONE, domain=mx.name)

    assert any("turns being cancelled into an error" in each for each in problems_of(Swallows))


def test_a_table_of_another_name_is_found() -> None:
    def first(operations: Any) -> None:
        operations.execute("CREATE TABLE tlsrpt_mine (x INTEGER)")

    class Grabs(Made):
        @hookimpl
        def register_schema(self) -> Schema:
            return Schema(migrations=(first,))

    [problem] = problems_of(Grabs)
    assert problem == "it does not start: plugin 'grabs': its tables begin with 'grabs_', and tlsrpt_mine may be another's"


def test_private_names_and_early_imports_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nosy_plugin.py").write_text(
        "import sqlmodel\n"
        "from postward import hookimpl\n"
        "from postward.delivery import pipeline\n"
        "from postward.queue.store import Queue\n"
        "class Nosy:\n"
        "    def __init__(self, config, core):\n"
        "        self.core = core\n"
        "    @hookimpl\n"
        "    async def connection_closed(self, connection):\n"
        "        self.core.store._positions\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import nosy_plugin  # type: ignore[import-not-found]

    try:
        problems = problems_of(nosy_plugin.Nosy)
    finally:
        del sys.modules["nosy_plugin"]
    assert [each.split(",")[0] for each in problems] == [
        "nosy_plugin.py:3 uses postward.delivery.pipeline",
        "nosy_plugin.py:4 uses postward.queue.store.Queue",
        "nosy_plugin.py:10 uses core._positions",
        problems[3].split(",")[0],
    ]
    assert "sqlmodel" in problems[3]


def test_a_module_that_cannot_be_imported_alone_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shy_plugin.py").write_text(
        "import os\nfrom postward import hookimpl\n"
        "if 'SHY' not in os.environ: raise RuntimeError('not like this')\n"
        "class Shy:\n    def __init__(self, config, core): ...\n"
        "    @hookimpl\n    async def connection_closed(self, connection): ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with monkeypatch.context() as inner:
        inner.setenv("SHY", "1")
        import shy_plugin  # type: ignore[import-not-found]
    try:
        [problem] = problems_of(shy_plugin.Shy)
    finally:
        del sys.modules["shy_plugin"]
    assert "not like this" in problem
