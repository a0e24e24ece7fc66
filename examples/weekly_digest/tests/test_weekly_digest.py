"""Weeks that pass, and the mail about them."""

from __future__ import annotations

import email
import email.policy

import pytest
from postward_weekly_digest import counts
from postward_weekly_digest.plugin import WeeklyDigest

from postward import Window
from postward.testing import Harness, MailServer, conformance

TO = "postmaster@home.test"


def test_it_keeps_to_the_contract() -> None:
    conformance(WeeklyDigest, to=TO)


def test_weeks_begin_on_monday() -> None:
    for day in ("2026-11-23", "2026-11-24", "2026-11-29"):
        assert counts.days(counts.week_of_day(day)) == "2026-11-23 to 2026-11-29"
    assert counts.week_of_day("2026-11-30") == Window(
        start=counts.week_of_day("2026-11-29").end, end=counts.week_of_day("2026-11-29").end + counts.WEEK
    )


def use(harness: Harness) -> MailServer:
    harness.use(WeeklyDigest, to=TO)
    harness.domain("good.test")
    harness.domain("clear.test", harness.mx("mx.clear.test", certificate=None))
    [home] = harness.domain("home.test")
    return home


async def test_a_week_is_told_once_and_only_when_it_is_over(harness: Harness) -> None:
    home = use(harness)
    for _ in range(3):
        await harness.deliver("you@good.test")
    await harness.deliver("you@clear.test")
    for _ in range(5):  # Tuesday to Saturday
        assert await harness.next_day() == ()
    [built] = await harness.next_day()
    assert built.report.filename == "weekly-digest-2026-11-23.txt"
    [mail] = home.to(TO)
    message = email.message_from_bytes(mail.content, policy=email.policy.default)
    assert message["Subject"] == "Mail transport security, week of 2026-11-23 to 2026-11-29"
    text = message.get_body(("plain",))
    assert text is not None
    assert "4 sessions with 2 domains; 0 broke a policy, 1 went without TLS." in text.get_content()
    for _ in range(7):
        assert await harness.next_day() == ()  # the mail about the week does not count


async def test_the_page_and_the_verb_show_the_week(harness: Harness, capsys: pytest.CaptureFixture[str]) -> None:
    use(harness)
    await harness.deliver("you@good.test")
    await harness.results()
    status, text = await harness.get("/weekly_digest/")
    assert status == 200
    assert "1 sessions with 1 domains" in text
    assert await harness.command("weekly_digest", "show") == 0
    assert capsys.readouterr().out == text


def test_the_worst_come_first_and_the_rest_is_counted() -> None:
    rows = [counts.Row(domain=f"d{n}.test", sessions=10, failed=n, clear=0) for n in range(5)]
    text = counts.text(counts.week_of_day("2026-11-24"), rows, 2)
    assert [line.split()[0] for line in text.splitlines()[4:]] == ["d4.test", "d3.test", "and"]
    assert "and 3 more" in text
