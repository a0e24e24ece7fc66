"""Every hook of Postward, in the order in which a message and its results meet them.

A plugin is one class with methods named as below, marked `@postward.hookimpl`; it implements what it needs and leaves the
rest. There is no base class. The order of `plugins = [...]` in the configuration is the order of calls.

How implementations are called stands in the decorator of each spec:

- COLLECT: all, sync, while the program is assembled. An error stops start-up and names the plugin.
- GATHER: all, side by side; every answer that is not None counts.
- FIRST: in order, until one answers something other than None.
- NOTIFY: all, side by side; answers are ignored, errors are logged and never reach a delivery.
- STREAM: one plugin at a time in its own pace (`emit`).
- TASK: once per plugin, supervised for the life of the program (`background`, `lifespan`).

Every asynchronous call has a time limit (`limit`, seconds; `[plugin.x] time_limit` lowers it). An implementation that raises,
exceeds its limit or answers something of the wrong type has *failed*. Deciders that fail follow `[plugin.x] on_error`:
`defer` (default) makes the delivery wait and be tried again, `ignore` goes on as if the plugin had not been asked. An
implementation of an async hook may be a plain method; an async implementation of a sync hook is refused at start-up, as are
unknown hook names, arguments that the spec does not have, and wrappers. Leave out arguments that you do not need.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from enum import Enum
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

import pluggy

if TYPE_CHECKING:
    import trio

    from postward.core import Commands, Core
    from postward.model import (
        AuthResult,
        ConnectionReport,
        Delivered,
        Destination,
        DnsRecord,
        Endpoint,
        Finding,
        InboundMessage,
        Judgement,
        MxHost,
        Report,
        ReportJob,
        ReportOutcome,
        ReportReceipt,
        ReportTarget,
        ResultBatch,
        Schema,
        TlsPeer,
        TlsPolicy,
        Verdict,
        WebRoute,
    )
    from postward.names import Address, Domain

PROJECT: Final = "postward"
GROUP: Final = "postward.v1"

hookimpl = pluggy.HookimplMarker(PROJECT)
_mark = pluggy.HookspecMarker(PROJECT)

P = ParamSpec("P")
R = TypeVar("R")


class Call(Enum):
    """How the implementations of a hook are called; see the top of this module."""

    COLLECT = "collect"
    GATHER = "gather"
    FIRST = "first"
    NOTIFY = "notify"
    STREAM = "stream"
    TASK = "task"


LIMITS: Final[dict[str, float]] = {}
CALLS: Final[dict[str, Call]] = {}


def hookspec(call: Call, *, limit: float = 0) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Declare a hook: how it is called, and its time limit in seconds (0: none, for sync hooks and tasks)."""

    def declare(function: Callable[P, R]) -> Callable[P, R]:
        CALLS[function.__name__] = call
        LIMITS[function.__name__] = limit
        return _mark(function)

    return declare


# --- assembly ---


@hookspec(Call.COLLECT)
def register_schema() -> Schema | None:
    """Bring the plugin's tables.

    Called: once, before the database is opened. Return: the migrations in order. If it fails: start-up stops.
    """


@hookspec(Call.COLLECT)
def register_commands(commands: Commands) -> None:
    """Add verbs below `postward <plugin>`.

    Called: once per invocation of the command line that may need them. Return: nothing; call `commands.add`.
    If it fails: the plugin's verbs are missing and the error is shown.
    """


@hookspec(Call.COLLECT)
def register_routes() -> Sequence[WebRoute] | None:
    """Bring web pages below `/<plugin>/` and their JSON twins, or pages of a host name of their own (`WebRoute.host`).

    Called: once, when the web server is assembled. If it fails: start-up stops.
    """


# --- lifetime ---


@hookspec(Call.TASK)
def lifespan(core: Core) -> AbstractAsyncContextManager[None] | None:
    """Hold something open for as long as the program runs.

    Called: once, after the database is ready, in configuration order; left in reverse order.
    Return: an async context manager; it lives in a task of its own, so a nursery in it is allowed, and has 5 s to leave.
    If it fails: entering stops start-up; failing later, or in leaving, is logged, and the program goes on without it.
    """


@hookspec(Call.TASK)
async def background(core: Core) -> None:
    """Work beside everything else: refresh a cache, watch a file.

    Called: once; runs until it returns or the program ends. If it fails: logged, counted, and called again after a
    back-off of 1 s doubling to 5 min. A return ends it for good.
    """


# --- connection ---


@hookspec(Call.FIRST, limit=120)
async def resolve_route(domain: Domain) -> Destination | None:
    """Say where mail for a domain goes, instead of its MX records: a smarthost, a local table.

    Called: once per delivery and recipient domain, concurrently for several domains; never for address literals.
    Return: a destination whose `domain` is the policy domain from then on (RFC 8461 §3.4), or None for the MX lookup.
    Hosts without `addresses` are resolved by core. If it fails: the delivery is deferred.
    """


@hookspec(Call.FIRST, limit=60)
async def open_stream(endpoint: Endpoint) -> trio.abc.Stream | None:
    """Open the transport to an endpoint: through a proxy, from a chosen source address.

    Called: once per connection, SMTP and HTTPS alike (`endpoint.purpose`), concurrently.
    Return: a connected stream without TLS, or None for a plain TCP connection.
    If it fails: that address counts as unreachable; the next one is tried.
    """


@hookspec(Call.NOTIFY, limit=30)
async def connection_closed(connection: ConnectionReport) -> None:
    """See what one connection came to: host, TLS, verdicts, timings, bytes.

    Called: once per connection, and per host that was excluded before dialling; concurrently; after the fact.
    If it fails: logged only.
    """


# --- policy evaluation ---


@hookspec(Call.GATHER, limit=90)
async def domain_policy(destination: Destination) -> TlsPolicy | None:
    """Bring the policy of a next-hop domain, as MTA-STS does.

    Called: once per delivery and destination, before any connection, concurrently for several destinations; never for
    address literals. Return: a policy of scope DOMAIN, or None when the domain has none. Trouble of the protocol (a 404, a
    SERVFAIL) is no exception: return the policy with its `problem`.
    If it fails: by `on_error`; with `defer` an enforcing policy that cannot be satisfied stands in for the answer.
    """


@hookspec(Call.GATHER, limit=90)
async def host_policy(destination: Destination, mx: MxHost) -> TlsPolicy | None:
    """Bring the policy of one MX host, as DANE does.

    Called: before each connection to a host, with its addresses resolved (`mx.security`, RFC 7672 §2.2.2); never for
    address literals. Return, If it fails: as for `domain_policy`, for this host only.
    """


# --- TLS verification ---


@hookspec(Call.FIRST, limit=30)
async def verify_tls(policy: TlsPolicy, peer: TlsPeer) -> Verdict | None:
    """Judge the server of a finished, unverified handshake under one policy.

    Called: once per policy and connection; the plugin that issued the policy is asked first, then the others in order.
    Answer None for policies that are not yours, unless you mean to judge them in their issuer's place.
    If it fails, or nobody answers: the policy has failed, so an enforcing one refuses the host. `on_error` does not apply.
    """


# --- received messages ---


@hookspec(Call.COLLECT)
def report_addresses() -> Sequence[Address] | None:
    """Name the addresses that reports come to: anybody may send to them, over every listener of kind smtp and lmtp.

    Called: once, when the listeners are assembled. Return: addresses; what stands behind them with `+` or `-` is theirs too.
    If it fails: start-up stops.
    """


@hookspec(Call.GATHER, limit=120)
async def authenticate(message: InboundMessage) -> Sequence[AuthResult] | None:
    """Authenticate a received message: DKIM, SPF and the like.

    Called: once per message, concurrently for several messages. Return: results in the words of RFC 8601 §2.7.
    If it fails: by `on_error`; with `defer` the client is asked to come back.
    """


@hookspec(Call.GATHER, limit=120)
async def judge(message: InboundMessage, results: Sequence[AuthResult]) -> Judgement | None:
    """Judge a received message by its authentication results. The strictest disposition of all plugins wins.

    Called: once per message, after every `authenticate`. Return: a judgement; its `results` are journalled in the same
    transaction as the answer to the client. If it fails: by `on_error`.
    """


@hookspec(Call.FIRST, limit=120)
async def receive_report(message: InboundMessage, results: Sequence[AuthResult]) -> ReportReceipt | None:
    """Take in a message that came to a report address.

    Called: once per message to some of `report_addresses`, which are its `recipients`, as configured. Return: accepted, or
    refused with the reason that goes into a header of the message, which is delivered all the same; None when it is not your
    kind of report.
    If it fails: the message is delivered with that as its reason.
    """


# --- result emission ---


@hookspec(Call.STREAM, limit=300)
async def emit(batch: ResultBatch) -> None:
    """Take counted results, off the delivery path.

    Called: per plugin, one batch after the other in journal order, from the moment of its enabling; never concurrently
    with itself. Commit your writes through `core.store.consume(batch, fn)`: that moves your cursor in the same
    transaction, so each result is counted once. Return without consuming, for sinks outside the database, and core moves
    the cursor: at least once, with sequence numbers to deduplicate by.
    If it fails: the same batch comes again after a back-off; deliveries and other plugins go on.
    """


# --- report scheduling ---


@hookspec(Call.COLLECT)
def report_jobs() -> Sequence[ReportJob] | None:
    """Bring the kinds of report to build and send, with their windows.

    Called: once, at start-up. Return: jobs, see `ReportJob`. If it fails: start-up stops.
    """


@hookspec(Call.FIRST, limit=900)
async def deliver_report(report: Report, target: ReportTarget) -> Delivered | None:
    """Send a finished report to one address.

    Called: once per attempt and target, several concurrently; a target is leased to one node at a time. Core sends
    `mailto:` and `https:` when nobody answers. Return: how it ended. If it fails: as a temporary refusal, tried again.
    """


@hookspec(Call.NOTIFY, limit=30)
async def report_done(report: Report, outcome: ReportOutcome) -> None:
    """See how a report to one target ended.

    Called: once per target that reached its end. If it fails: logged only.
    """


# --- advice ---


@hookspec(Call.COLLECT)
def dns_records(domain: Domain) -> Sequence[DnsRecord] | None:
    """Suggest what the owner of a domain should publish.

    Called: whenever somebody asks for the records of `domain`. If it fails: shown, and the others still appear.
    """


@hookspec(Call.GATHER, limit=120)
async def dns_checks(domain: Domain) -> Sequence[Finding] | None:
    """Look at what a domain publishes, and say what is wrong, why it matters and what mends it.

    Called: whenever somebody asks to check `domain`. If it fails: shown as a finding of its own.
    """
