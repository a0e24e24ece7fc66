"""`/metrics` of a real `postward run` with workers: one page that shows what each of them counted."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from relay_kit import Internet, free_port, internet, relay, relay_config, send, until

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
