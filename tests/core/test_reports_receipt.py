"""What is said of received reports, and how a stranger's text is kept."""

from __future__ import annotations

from postward.reports.receipt import refused, shown_id, storable, taken


def test_texts_that_databases_do_not_take_are_kept_as_far_as_they_go() -> None:
    assert storable("a\ud800\0") == "a\ufffd\ufffd"
    assert storable("x" * 5000) == "x" * 1000


def test_an_id_cannot_end_its_quotes() -> None:
    assert shown_id('a";b\r\nX: y' + "z" * 200) == '"a__b__X:_y' + "z" * 90 + '"'


def test_the_first_three_are_told() -> None:
    receipt = taken("dmarc", ["a", "b", "c", "d"], error_header="X-E")
    assert (receipt.accepted, receipt.kind, receipt.summary) == (True, "dmarc", "a; b; c")


def test_a_refusal_has_its_header() -> None:
    receipt = refused("dmarc", "no", error_header="X-E", temporary=True)
    assert (receipt.accepted, receipt.reason, receipt.error_header, receipt.temporary) == (False, "no", "X-E", True)
