"""The files of a new plugin: a package that conforms, has tests that pass, and does something small to begin from."""

from __future__ import annotations

import re
from string import Template
from typing import Final

_PYPROJECT: Final = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "postward-$dashed"
version = "0.1.0"
description = "A plugin for Postward."
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["postward>=0.1"]

[project.optional-dependencies]
test = ["postward[testing]"]

[project.entry-points."postward.v1"]
$name = "postward_$name.plugin:$kind"

[tool.hatch.build.targets.wheel]
packages = ["src/postward_$name"]

[tool.pytest.ini_options]
testpaths = ["tests"]
pythonpath = ["src"]

[tool.ruff]
line-length = 128
src = ["src"]
"""

_README: Final = """\
# postward-$dashed
A plugin for Postward. It demands TLS of the domains in its configuration.

```toml
plugins = ["$name"]

[plugin.$name]
domains = ["example.net"]
```

Test it, and install it where Postward is:

    python -m pip install -e '.[test]'
    python -m pytest
    postward plugins enable $name
"""

_INIT: Final = '''\
"""A plugin for Postward."""
'''

_PLUGIN: Final = '''\
"""The plugin: mail to some domains goes over TLS or not at all.

`postward.hookspecs` has every hook; remove here what you do not need. The hooks may be async, and so may what they call.
"""

from __future__ import annotations

from postward import ConnectionReport, Core, Destination, Domain, Mode, TlsPeer, TlsPolicy, Verdict, hookimpl
from pydantic import BaseModel

KIND = "x-$dashed"


class $kind:
    """What the entry point names. It is made once, before the database is open, and must not wait for anything."""

    class Config(BaseModel, extra="forbid", frozen=True):
        """What stands below `[plugin.$name]`."""

        domains: tuple[Domain, ...] = ()

    def __init__(self, config: Config, core: Core) -> None:
        self.config, self.core = config, core

    @hookimpl
    async def domain_policy(self, destination: Destination) -> TlsPolicy | None:
        """Bind every host of the domains."""
        if destination.domain not in self.config.domains:
            return None
        return TlsPolicy(kind=KIND, mode=Mode.ENFORCE, domain=destination.domain, authenticates=False)

    @hookimpl
    async def verify_tls(self, policy: TlsPolicy, peer: TlsPeer) -> Verdict | None:
        """Be content with any TLS; `peer.chain` holds the certificates for who wants more."""
        return Verdict(passed=True) if policy.kind == KIND else None

    @hookimpl
    async def connection_closed(self, connection: ConnectionReport) -> None:
        """Say what became of each connection."""
        self.core.log.info("connection", host=connection.host, delivered=connection.delivered, error=connection.error)
'''

_TEST: Final = '''\
"""The plugin over an internet in memory; `harness` comes with `postward[testing]`."""

from __future__ import annotations

from postward.testing import Harness, conformance

from postward_$name.plugin import KIND, $kind


def test_it_keeps_to_the_contract() -> None:
    conformance($kind, domains=["example.test"])


async def test_a_host_without_tls_gets_no_mail(harness: Harness) -> None:
    harness.use($kind, domains=["example.test"])
    [host] = harness.domain("example.test", harness.mx("mx.example.test", certificate=None))
    delivery = await harness.deliver("you@example.test")
    assert not delivery.delivered
    assert host.mails == []


async def test_a_host_with_tls_gets_it(harness: Harness) -> None:
    harness.use($kind, domains=["example.test"])
    [host] = harness.domain("example.test")
    delivery = await harness.deliver("you@example.test")
    assert delivery.delivered
    assert [(policy.kind, policy.passed) for policy in delivery.attempts[0].policies] == [(KIND, True)]
    assert len(host.mails) == 1


async def test_other_domains_are_left_alone(harness: Harness) -> None:
    harness.use($kind, domains=["example.test"])
    harness.domain("other.test", harness.mx("mx.other.test", certificate=None))
    assert (await harness.deliver("you@other.test")).delivered
'''


def package(name: str) -> dict[str, str]:
    """The files of a package for a plugin of this name, by path below its folder `postward-NAME`."""
    words = {
        "name": name,
        "dashed": name.replace("_", "-"),
        "kind": "".join(part.capitalize() for part in re.split("_+", name) if part),
    }
    source = f"src/postward_{name}"
    texts = {
        "pyproject.toml": _PYPROJECT,
        "README.md": _README,
        f"{source}/__init__.py": _INIT,
        f"{source}/plugin.py": _PLUGIN,
        f"{source}/py.typed": "",
        "tests/test_plugin.py": _TEST,
    }
    return {path: Template(text).substitute(words) for path, text in texts.items()}
