"""Decisions about the policy cache, without I/O (RFC 8461 §3.3, §10.2)."""

import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.operations import Operations
from hypothesis import given
from hypothesis import strategies as st

from postward.model import Mode
from postward.names import Domain
from postward_mtasts import tables
from postward_mtasts.cache import BACK_OFF, DAY, REFRESH_RETRY, Entry, Lookup, Step, fetched, next_step, refresh_due
from postward_mtasts.record import StsRecord

DOMAIN = Domain("b.example")
NOW = 1_795_521_600_000_000
TEXT = "version: STSv1\nmode: enforce\nmx: mx.b.example\nmax_age: 604800\n"


def test_a_refresh_that_failed_is_not_tried_again_within_the_hour() -> None:
    entry = fetched(None, DOMAIN, "1", TEXT, NOW)
    assert not refresh_due(entry, NOW + DAY - 1)
    assert refresh_due(entry, NOW + DAY)
    failed = Entry(
        domain=DOMAIN, text=TEXT, mode=Mode.ENFORCE, fetched=NOW, expires=entry.expires, last_attempt=NOW + DAY, failed_id="1"
    )
    assert not refresh_due(failed, NOW + DAY + REFRESH_RETRY - 1)
    assert refresh_due(failed, NOW + DAY + REFRESH_RETRY)
    assert not refresh_due(failed, entry.expires)


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
    """§3.3: whatever DNS says, a valid policy acts, or a newer one is fetched."""
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
