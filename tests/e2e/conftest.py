"""Fixtures with foreign programs, started once for all tests here."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import postgresql_server
from signed_dns import SignedDns


@pytest.fixture(scope="session")
def signed_dns() -> Iterator[SignedDns]:
    """A validating resolver over signed zones; see `tests/signed_dns.py`. Skipped without the programs."""
    directory = Path(tempfile.mkdtemp(prefix="dns"))  # a short path: the control socket's may have 107 bytes
    try:
        servers = SignedDns(directory)
        try:
            servers.start()
            yield servers
        finally:
            servers.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def server() -> Iterator[postgresql_server.Server]:
    """A PostgreSQL; see `tests/postgresql_server.py`. Skipped without it."""
    with postgresql_server.running() as running:
        yield running


@pytest.fixture
def url(server: postgresql_server.Server, request: pytest.FixtureRequest) -> str:
    """A fresh database."""
    return server.fresh(request.node.name.partition("[")[0][:50])
