"""Decisions about the policy cache, without I/O (RFC 8461 §3.3, §10.2)."""

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.operations import Operations
from hypothesis import given
from hypothesis import strategies as st

from postward.model import Mode
from postward.names import Domain
from postward_mtasts import tables
from postward_mtasts.cache import BACK_OFF, DAY, REFRESH_RETRY, Entry, Lookup, Step, failed, fetched, next_look, next_step
from postward_mtasts.record import StsRecord

DOMAIN = Domain("b.example")
SECOND = 1_000_000
NOW = 1_795_521_600_000_000
TEXT = "version: STSv1\nmode: enforce\nmx: mx.b.example\nmax_age: 604800\n"


def test_renewal_is_daily_and_spread_over_six_hours() -> None:
    """RFC 8461 §10.2: a refresh daily; policies that were fetched together are not renewed together."""
    entry = fetched(None, DOMAIN, "1", TEXT, NOW)
    assert entry.due == NOW + DAY
    assert fetched(None, DOMAIN, "1", TEXT, NOW, chance=1.0).due == NOW + DAY * 3 // 4
    assert next_look(entry, NOW + 2 * DAY, 0.5) == NOW + DAY * 7 // 8


def test_a_renewal_that_failed_is_tried_again_within_the_hour() -> None:
    entry = fetched(None, DOMAIN, "1", TEXT, NOW)
    again = failed(entry, DOMAIN, "1", "why", NOW + DAY)
    assert (again.text, again.expires, again.failed_id, again.last_error) == (TEXT, entry.expires, "1", "why")
    assert again.due == NOW + DAY + REFRESH_RETRY
    assert failed(entry, DOMAIN, "1", "", NOW + DAY, chance=1.0).due == NOW + DAY + REFRESH_RETRY * 3 // 4
    assert failed(entry, DOMAIN, "1", "", entry.expires - 1).due == entry.expires + DAY, "nothing is left to renew"


@pytest.mark.parametrize(
    ("max_age", "due"), [(0, DAY), (800, 800 * SECOND + DAY), (2400, 1200 * SECOND), (7200, 3600 * SECOND)]
)
def test_a_policy_is_renewed_at_half_its_lifetime_but_no_more_than_every_quarter_of_an_hour(max_age: int, due: int) -> None:
    """RFC 8461 §3.3: before it expires. A stranger who serves `max_age: 1` must not be asked every second."""
    assert fetched(None, DOMAIN, "1", TEXT.replace("604800", str(max_age)), NOW).due == NOW + due


def test_what_failed_can_be_printed() -> None:
    assert failed(None, DOMAIN, "1", "a\x1b[31m\nb" + "x" * 500, NOW).last_error.startswith("a?[31m?bxxx")
    assert len(failed(None, DOMAIN, "1", "x" * 500, NOW).last_error) == 300
    assert failed(None, DOMAIN, "1", "", NOW).due == NOW + DAY, "the memory of an error is dropped after a day"


ENTRY = st.builds(
    Entry,
    domain=st.just(DOMAIN),
    record_id=st.sampled_from(["1", "2"]),
    text=st.sampled_from(["", TEXT]),
    mode=st.sampled_from(list(Mode)),
    expires=st.integers(NOW - 10, NOW + 10),
    last_attempt=st.integers(NOW - BACK_OFF - 10, NOW),
    failed_id=st.sampled_from(["", "1", "2"]),
)
FOUND = st.sampled_from([StsRecord(id="1"), StsRecord(id="2"), *Lookup])


@given(st.none() | ENTRY, FOUND)
def test_an_enforced_policy_is_never_given_up_before_it_expires(entry: Entry | None, found: StsRecord | Lookup) -> None:
    """RFC 8461 §3.3: whatever DNS says, a valid policy acts, or a newer one is fetched."""
    step = next_step(entry, found, NOW)
    if entry is not None and entry.valid(NOW) and entry.mode is not Mode.NONE:
        assert step is Step.CACHED or (step is Step.FETCH and isinstance(found, StsRecord) and found.id != entry.record_id)
    else:
        assert step is not Step.CACHED or (entry is not None and entry.valid(NOW))
    if step is Step.FETCH:
        assert isinstance(found, StsRecord)
        assert entry is None or not entry.backing_off(found.id, NOW)


def test_the_migration_makes_what_the_models_say() -> None:
    engine = sa.create_engine("sqlite://")
    with engine.begin() as connection:
        context = MigrationContext.configure(connection)
        for migration in tables.SCHEMA.migrations:
            migration(Operations(context))
        assert compare_metadata(context, tables.Base.metadata) == []
    engine.dispose()


def test_a_cache_of_the_first_version_is_kept() -> None:
    """RFC 8461 §3.3: an upgrade must not forget policies; whoever waits for that moment would get the mail."""
    engine = sa.create_engine("sqlite://")
    with engine.begin() as connection:
        operations = Operations(MigrationContext.configure(connection))
        first, *others = tables.SCHEMA.migrations
        first(operations)
        connection.exec_driver_sql(
            "INSERT INTO mtasts_policies VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            ("b.example", "1", TEXT, "enforce", NOW, NOW + 7 * DAY, NOW, NOW, "", ""),
        )
        for migration in others:
            migration(operations)
        entry = tables.load(connection, DOMAIN)
    assert entry is not None
    assert (entry.text, entry.mode, entry.valid(NOW), entry.media_type, entry.due) == (TEXT, Mode.ENFORCE, True, "", 0)
    engine.dispose()


@pytest.mark.parametrize(("known", "found"), [("1", "2"), ("2", "1"), ("20261231", "20260101"), ("a", "A")])
def test_ids_have_no_order(known: str, found: str) -> None:
    """RFC 8461 §3.1: another id is another policy, be it smaller; the same is the same, and letters count as they stand."""
    entry = fetched(None, DOMAIN, known, TEXT, NOW)
    assert next_step(entry, StsRecord(id=found), NOW + 1) is Step.FETCH
    assert next_step(entry, StsRecord(id=known), NOW + 1) is Step.CACHED
