"""`/metrics` of a real `postward run` with workers: one page that shows what each of them counted."""

from __future__ import annotations

import http.client
import json
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from deliver_kit import ENVIRONMENT
from relay_kit import PROGRAM, Internet, free_port, internet, relay, relay_config, send, until

pytestmark = pytest.mark.loopback

TOKEN = "a-token-of-the-test-0123"


@pytest.fixture(scope="module")
def world() -> Iterator[Internet]:
    with internet("a.test", "b.test", "c.test", "d.test") as made:
        yield made


def fetch(port: int, **headers: str) -> tuple[int, str]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.request("GET", "/metrics", headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def total(text: str, name: str, **labels: str) -> dict[str, float]:
    """The sum of the series of a name that have these labels, by worker."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                worker = sample.labels.get("worker", "")
                found[worker] = found.get(worker, 0.0) + sample.value
    return found


def test_the_figures_of_every_worker_on_one_page(tmp_path: Path, world: Internet) -> None:
    port = free_port()
    config = relay_config(
        tmp_path,
        world,
        plugins=["dane"],
        delivery={"workers": 2},
        web={"bind": f"127.0.0.1:{port}", "metrics_token": "env:SCRAPE_TOKEN"},
    )
    left = config.parent / "data" / "metrics"
    with relay(config, workers=2, SCRAPE_TOKEN=TOKEN):
        assert fetch(port)[0] == 401
        for domain in ("a.test", "b.test", "c.test", "d.test"):
            send(config, f"you@{domain}", domain)
            world.wait_for(f"you@{domain}")

        def all_counted() -> str | None:
            status, text = fetch(port, Authorization=f"Bearer {TOKEN}")
            assert status == 200
            return text if sum(total(text, "postward_recipients_total", outcome="delivered").values()) == 4 else None

        text = until(all_counted)
        # Four destinations belong to both workers, and both count in the same words.
        delivered = total(text, "postward_recipients_total", outcome="delivered")
        assert set(delivered) == {"0", "1"}
        assert sum(total(text, "postward_tls_sessions_total").values()) == 4
        assert sum(total(text, "postward_messages_queued_total", source="client").values()) == 4
        assert sum(total(text, "postward_delivery_seconds_count").values()) == 4
        assert total(text, "postward_queue_messages") == {"": 0}
        assert set(total(text, "postward_process_resident_bytes")) == {"0", "1"}
        assert total(text, "postward_worker_age_seconds")[""] < 60
        assert total(text, "postward_build_info") == {"": 1}
    assert left.is_dir()


def test_the_way_of_a_message_through_the_log(tmp_path: Path, world: Internet) -> None:
    """`postward logs --cid`: from the client to the host, of whichever process, while the service runs and behind it."""
    config = relay_config(tmp_path, world, delivery={"workers": 2}, web={"bind": f"127.0.0.1:{free_port()}"})
    with relay(config, workers=2) as running:
        for domain in ("a.test", "b.test"):
            send(config, f"way@{domain}", domain)
        running.wait_for("message-delivered", 2)
        cid = running.events("message-queued")[0]["cid"]
        assert running.stop() == 0
    done = subprocess.run(
        [*PROGRAM, "logs", "--config", str(config), "--cid", cid, "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        env=ENVIRONMENT,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    # The connection is kept for a moment, so it ends last.
    found = [line["event"] for line in lines]
    assert (done.returncode, found) == (0, ["message-queued", "message-delivered", "connection"]), done.stderr
    assert lines[0]["session"] not in ("", cid)
    every = subprocess.run(
        [*PROGRAM, "logs", "--config", str(config), "-n", "0", "--json"], capture_output=True, text=True, env=ENVIRONMENT
    )
    logged = [json.loads(line)["event"] for line in every.stdout.splitlines()]
    assert {"running", "message-queued", "connection", "message-delivered", "worker-ready", "stopped"} <= set(logged)
    assert logged.count("message-delivered") == 2
