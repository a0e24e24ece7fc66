"""A plugin in service for two days, and then with a world that never answers: nothing of it may fail, hang or leak."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Coroutine, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

import trio
import trio.testing

from postward import hookspecs
from postward.app import App
from postward.contract import SPECS, Spec
from postward.hookspecs import Call
from postward.model import (
    AuthResult,
    ConnectionReport,
    Destination,
    Endpoint,
    InboundMessage,
    Mode,
    MxHost,
    PolicyResult,
    Report,
    ReportOutcome,
    ReportTarget,
    TlsPeer,
    TlsPolicy,
    Window,
)
from postward.names import Address, Domain
from postward.testing.harness import Harness, open_harness

# How long a hook may take, in seconds beyond its limit, to see that it is over.
GRACE: Final = 10.0
GOOD: Final = Domain("good.test")
MAIL: Final = b"From: <you@good.test>\r\nTo: <me@sender.example>\r\nSubject: hello\r\n\r\nhello\r\n"
_ASKED: Final = (Call.GATHER, Call.FIRST, Call.NOTIFY)


def trials(name: str, plugin: type[Any], options: dict[str, Any]) -> Iterator[str]:
    """What goes wrong. Runs trio."""
    for trial in (_in_service, _without_answers):
        with tempfile.TemporaryDirectory(prefix="postward-conformance-") as directory:
            clock = trio.testing.MockClock(autojump_threshold=0)
            yield from trio.run(_run, trial, name, plugin, options, Path(directory), clock=clock)


async def _run(
    trial: Callable[[Harness, str, list[str]], Coroutine[Any, Any, None]],
    name: str,
    plugin: type[Any],
    options: dict[str, Any],
    directory: Path,
) -> list[str]:
    problems: list[str] = []
    async with open_harness(directory) as harness:
        seams: Any = harness
        seams.dns, seams.net = _Gate(harness.dns), _Gate(harness.net)
        harness.use(plugin, name, **options)
        try:
            await harness.start()
        except Exception as exc:  # noqa: BLE001 - whatever stops a start is what there is to say
            return [f"it does not start: {exc}"]
        await trial(harness, name, problems)
    return list(dict.fromkeys(problems))


# --- in service ---


async def _in_service(harness: Harness, name: str, problems: list[str]) -> None:
    app = await harness.start()
    harness.domain(GOOD, harness.mx("mx.good.test", tlsa=True))
    harness.domain("clear.test", harness.mx("mx.clear.test", certificate=None, security="insecure"), security="insecure")
    harness.domain("broken.test")
    harness.dns.fault("broken.test")
    for domain in (GOOD, "clear.test", "broken.test", "none.test"):
        await harness.deliver(f"you@{domain}")
    await app.judge(_message(app))
    for domain in (GOOD, Domain("broken.test")):
        app.hooks.collect(hookspecs.dns_records, domain=domain)
        await app.hooks.gather(hookspecs.dns_checks, domain=domain)
    app.hooks.collect(hookspecs.register_routes)
    app.hooks.collect(hookspecs.report_addresses)
    for _ in range(2):
        await harness.next_day()
    problems += _failures(harness, name, "in service")


def _failures(harness: Harness, name: str, when: str) -> list[str]:
    """What core logged about it."""
    said = [
        f"hook {line.get('hook')!r} failed {when}: it {line.get('error')}"
        for line in harness.log
        if line["event"] == "hook-failed" and line.get("plugin") == name
    ]
    return said + [
        f"its report job {line.get('job')!r} failed {when}: {line.get('error')}"
        for line in harness.log
        if line["event"] in ("report-job-failed", "report-failed") and line.get("plugin") == name
    ]


# --- without answers ---


class _Gate:
    """A resolver or a network in front of another one; shut, it never answers."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.shut = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def query(self, name: Domain | str, rdtype: str) -> Any:
        return await self._through(self._inner.query, name, rdtype)

    async def addresses(self, name: Domain) -> Any:
        return await self._through(self._inner.addresses, name)

    async def open_stream(self, endpoint: Endpoint) -> Any:
        return await self._through(self._inner.open_stream, endpoint)

    async def _through(self, work: Callable[..., Any], *arguments: object) -> Any:
        if self.shut:
            await trio.sleep_forever()
        return await work(*arguments)


async def _without_answers(harness: Harness, name: str, problems: list[str]) -> None:
    gates: list[Any] = [harness.dns, harness.net]
    for gate in gates:
        gate.shut = True
    app = await harness.start()
    for spec in SPECS.values():
        if not spec.is_async or name not in app.hooks.plugins_for(spec.function):
            continue
        if spec.call in _ASKED:
            problems += await _cancelled(harness, app, spec, name, after=0.0)
            problems += await _cancelled(harness, app, spec, name, after=1.0)
            problems += await _too_slow(app, spec, name)
        elif spec.call is Call.TASK:
            problems += await _cancelled(harness, app, spec, name, after=3600.0)


async def _cancelled(harness: Harness, app: App, spec: Spec, name: str, *, after: float) -> list[str]:
    """Core gives up: the hook has to end, at once and without an error of its own."""
    before = len(harness.log)
    ended = await _within(after, GRACE, lambda: _call(app, spec, name))
    if not ended:
        return [f"hook {spec.name!r} does not end when core cancels it"]
    raised = [line["error"] for line in harness.log[before:] if line["event"] == "hook-failed" and line.get("plugin") == name]
    return [f"hook {spec.name!r} turns being cancelled into an error: it {error}" for error in raised]


async def _too_slow(app: App, spec: Spec, name: str) -> list[str]:
    """Its own limit passes: the hook has to end."""
    ended = await _within(spec.limit + GRACE, GRACE, lambda: _call(app, spec, name))
    return [] if ended else [f"hook {spec.name!r} goes on behind its limit of {spec.limit:g} s"]


async def _call(app: App, spec: Spec, name: str) -> None:
    await app.hooks.call_one(name, spec.function, **_arguments(app, spec, name))


async def _within(seconds: float, grace: float, work: Callable[[], Coroutine[Any, Any, None]]) -> bool:
    """Run `work` and cancel it after `seconds`; whether it then ended within `grace`."""
    ended = trio.Event()

    async def run() -> None:
        try:
            with trio.move_on_after(seconds):
                await work()
        except _Stuck:
            return
        ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        with trio.move_on_after(seconds + grace):
            await ended.wait()
        done = ended.is_set()
        if not done:
            _wake(nursery)
            nursery.cancel_scope.cancel()
    return done


class _Stuck(BaseException):
    """Thrown into a task that shields itself from being cancelled, because nothing else ends it."""


def _wake(nursery: trio.Nursery) -> None:
    def throw() -> Any:
        raise _Stuck

    for task in nursery.child_tasks:
        for below in task.child_nurseries:
            _wake(below)
        # Private: trio has no other way to reach a task behind a shield.
        abort: Any = getattr(task, "_attempt_abort", None)
        if abort is not None and getattr(task, "_abort_func", None) is not None:
            abort(throw)


# --- what hooks are asked ---


def _arguments(app: App, spec: Spec, name: str) -> dict[str, Any]:
    """An ordinary set of arguments for a hook."""
    everything = _everything(app, name)
    return {parameter: everything[parameter] for parameter in spec.parameters}


def _everything(app: App, name: str) -> dict[str, Any]:
    host = MxHost(name=Domain("mx.good.test"), preference=10, addresses=("192.0.2.1",))
    endpoint = Endpoint(host=host.name, address="192.0.2.1", port=25)
    policy = TlsPolicy(kind="x-conformance", mode=Mode.ENFORCE, domain=GOOD)
    target = ReportTarget(uri="mailto:reports@good.test")
    judged = PolicyResult(kind="x-conformance", mode=Mode.ENFORCE, domain=GOOD, passed=True)
    return {
        "domain": GOOD,
        "destination": Destination(domain=GOOD, hosts=(host,)),
        "mx": host,
        "endpoint": endpoint,
        "policy": policy,
        "peer": TlsPeer(endpoint=endpoint, server_name=host.name, protocol="TLSv1.3", cipher="x", chain=(b"no certificate",)),
        "connection": ConnectionReport(
            domain=GOOD, host=host.name, address="192.0.2.1", tls=None, policies=(judged,), delivered=True
        ),
        "message": _message(app),
        "results": (AuthResult(method="spf", result="none"),),
        "report": _report(app),
        "target": target,
        "outcome": ReportOutcome(target=target, state="delivered", attempts=1),
        "core": app.core_for(name),
    }


def _message(app: App) -> InboundMessage:
    return InboundMessage(
        client_ip=ip_address("192.0.2.9"),
        helo="mx.good.test",
        sender=Address.parse("you@good.test"),
        recipients=(Address.parse("me@sender.example"),),
        content=MAIL,
        received=app.clock.now(),
    )


def _report(app: App) -> Report:
    return Report(
        kind="x-conformance",
        report_id="conformance",
        policy_domain=GOOD,
        window=Window(start=app.clock.now() - 1, end=app.clock.now()),
        submitter=Domain("sender.example"),
        subject="conformance",
        filename="conformance.txt",
        media_type="text/plain",
        content=b"conformance\n",
    )
