"""An endpoint in memory that takes results, refuses them, and is away."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
from postward_webhook_sink.plugin import WebhookSink

from postward.testing import Harness, Page, WebSite, conformance

URL = "https://collector.test/take?from=postward"


def test_it_keeps_to_the_contract() -> None:
    # Nobody answers at this address, which is no trouble of the plugin's own.
    with pytest.raises(AssertionError, match="hook 'emit' failed in service") as caught:
        conformance(WebhookSink, url=URL)
    assert str(caught.value).count("\n- ") == 1


def use(harness: Harness, answer: Page | int = 204) -> WebSite:
    harness.use(WebhookSink, url=URL, token="secret")
    harness.domain("example.test")
    return harness.site("collector.test", {"/take?from=postward": answer})


def posts(site: WebSite) -> list[Any]:
    return [json.loads(request.body) for request in site.requests]


async def test_results_are_posted_in_one_batch(harness: Harness) -> None:
    site = use(harness)
    await harness.deliver("you@example.test")
    await harness.results()
    [post] = posts(site)
    assert (post["first"], post["last"], post["node"]) == (1, 1, "mx.sender.example")
    [result] = post["results"]
    assert (result["domain"], result["host"], result["count"]) == ("example.test", "mx.example.test", 1)
    assert [policy["kind"] for policy in result["policies"]] == ["no-policy-found"]
    assert site.requests[0].headers["authorization"] == "Bearer secret"


async def test_what_is_refused_comes_again_in_order(harness: Harness) -> None:
    site = use(harness, 503)
    for _ in range(3):
        await harness.deliver("you@example.test")
    await trio.sleep(60)
    refused = len(site.requests)
    assert refused > 1
    assert harness.failures("webhook_sink") == refused
    site.pages["/take?from=postward"] = 200
    await harness.results()
    taken = posts(site)[refused:]
    assert [entry["sequence"] for post in taken for entry in post["results"]] == [1, 2, 3]


async def test_deliveries_do_not_wait_for_the_endpoint(harness: Harness) -> None:
    use(harness, Page(delay=3600))
    begun = trio.current_time()
    assert (await harness.deliver("you@example.test")).delivered
    assert trio.current_time() - begun < 1


async def test_a_batch_that_is_too_large_is_cut(harness: Harness) -> None:
    site = use(harness, 503)
    for _ in range(4):
        await harness.deliver("you@example.test")
    await trio.sleep(5)
    site.pages["/take?from=postward"] = 413
    await trio.sleep(600)
    sizes = [len(post["results"]) for post in posts(site)]
    assert sizes[-3:] == [4, 2, 1]


@pytest.mark.parametrize("url", ["http://collector.test/", "https:///x", "https://me@collector.test/"])
async def test_only_https_is_taken(harness: Harness, url: str) -> None:
    harness.use(WebhookSink, url=url)
    with pytest.raises(Exception, match=r"plugin\.webhook_sink\.url"):
        await harness.start()
