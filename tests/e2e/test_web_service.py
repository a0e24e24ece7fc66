"""The web side of a real `postward run`: policies of own domains and posted reports over HTTPS, no more for strangers."""

from __future__ import annotations

import http.client
import sqlite3
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from deliver_kit import ENVIRONMENT
from postward.lab.ca import Authority
from relay_kit import PROGRAM, Internet, Relay, free_port, internet, relay, relay_config
from tlsrpt_samples import as_json, plain

pytestmark = pytest.mark.loopback

FIRST, SECOND = "mta-sts.example.test", "mta-sts.example.org"


@dataclass(frozen=True, slots=True)
class Site:
    config: Path
    running: Relay
    public: int
    local: int
    authority: Authority

    def ask(self, host: str, path: str, *, method: str = "GET", body: bytes = b"", **headers: str) -> tuple[int, str, bytes]:
        """One request by a stranger who checks the certificate: status, media type, body."""
        context = ssl.create_default_context(cadata=self.authority.root_pem.decode())
        connection = http.client.HTTPSConnection("127.0.0.1", self.public, context=context, timeout=20)
        connection._create_connection = lambda address, *rest: _connect(self.public)  # type: ignore[attr-defined]
        connection.host = host
        with closing(connection):
            connection.request(method, path, body or None, {"Host": host, **headers})
            response = connection.getresponse()
            return response.status, response.getheader("content-type") or "", response.read()

    def post(self, body: bytes) -> tuple[int, str, bytes]:
        """Post a report."""
        how = {"Content-Type": "application/tlsrpt+json"}
        return self.ask("relay.sender.test", "/tlsrpt/report", method="POST", body=body, **how)


def _connect(port: int):  # type: ignore[no-untyped-def]
    import socket

    return socket.create_connection(("127.0.0.1", port), timeout=20)


@pytest.fixture(scope="module")
def world() -> Iterator[Internet]:
    with internet("a.test") as made:
        yield made


@pytest.fixture
def site(tmp_path: Path, world: Internet) -> Iterator[Site]:
    authority = Authority("Web tests")
    certificates = []
    for number, names in enumerate(([FIRST, "relay.sender.test"], ["*.example.org"])):
        issued = authority.issue(names)
        (tmp_path / f"{number}.pem").write_bytes(issued.chain_pem)
        (tmp_path / f"{number}.key").write_bytes(issued.key_pem)
        certificates.append({"cert_file": str(tmp_path / f"{number}.pem"), "key_file": str(tmp_path / f"{number}.key")})
    public, local = free_port(), free_port()
    config = relay_config(
        tmp_path / "relay",
        world,
        plugins=["mtasts", "tlsrpt"],
        web={"bind": f"127.0.0.1:{local}", "public": f"127.0.0.1:{public}", "certificates": certificates},
        plugin={
            "mtasts": {
                "host": {"example.test": {"mode": "enforce", "mx": ["mx.example.test"]}, "example.org": {"mode": "testing"}}
            },
            "tlsrpt": {"own_domains": ["example.com"]},
        },
    )
    with relay(config) as running:
        yield Site(config, running, public, local, authority)


def test_policies_and_reports_over_https(site: Site) -> None:
    """RFC 8461 §3.2, §3.3: each policy by its host and with its certificate; RFC 8460 §5.4: 2xx for a report that counts."""
    status, kind, body = site.ask(FIRST, "/.well-known/mta-sts.txt")
    assert (status, kind) == (200, "text/plain")
    assert body.startswith(b"version: STSv1\r\nmode: enforce\r\nmx: mx.example.test\r\n")
    assert b"mode: testing\r\nmx: relay.sender.test" in site.ask(SECOND, "/.well-known/mta-sts.txt")[2]
    assert site.ask(FIRST, "/")[0] == 404
    with pytest.raises(ssl.SSLCertVerificationError):
        site.ask("mta-sts.example.net", "/.well-known/mta-sts.txt")

    yesterday = datetime.now(UTC).date() - timedelta(days=1)
    report = plain()
    report["date-range"] = {"start-datetime": f"{yesterday}T00:00:00Z", "end-datetime": f"{yesterday}T23:59:59Z"}
    answers = [site.post(as_json(report)) for _ in range(2)]
    assert [status for status, _, _ in answers] == [201, 200], answers
    assert site.post(b"{")[0] == 400
    assert site.ask("relay.sender.test", "/tlsrpt/report")[0] == 405
    with closing(sqlite3.connect(site.config.parent / "data" / "results.db", timeout=20)) as database:
        assert database.execute("SELECT count(*) FROM tlsrpt_received").fetchone() == (1,)
    assert site.running.stop() == 0
    assert site.running.process.returncode == 0


def test_a_renewed_certificate_is_taken_without_a_restart(site: Site) -> None:
    other = Authority("Another")
    issued = other.issue([FIRST])
    (site.config.parent.parent / "0.pem").write_bytes(issued.chain_pem)
    (site.config.parent.parent / "0.key").write_bytes(issued.key_pem)
    site.running.process.send_signal(1)
    site.running.wait_for("reloaded")
    with pytest.raises(ssl.SSLCertVerificationError):
        site.ask(FIRST, "/.well-known/mta-sts.txt")
    assert Site(site.config, site.running, site.public, site.local, other).ask(FIRST, "/.well-known/mta-sts.txt")[0] == 200


def test_a_place_that_is_taken_stops_the_start_only_where_it_was_asked_for(site: Site, tmp_path: Path, world: Internet) -> None:
    config = relay_config(tmp_path / "other", world, plugins=["tlsrpt"], web={"bind": f"127.0.0.1:{site.local}"})
    done = subprocess.run(
        [*PROGRAM, "run", "--config", str(config)], capture_output=True, text=True, env=ENVIRONMENT, timeout=60, check=False
    )
    assert done.returncode == 2
    assert f"cannot listen on 127.0.0.1:{site.local}" in done.stderr
    assert "Traceback" not in done.stderr
