"""DMARC as a plugin: DKIM and SPF of received messages, the judgement, and the counters for aggregate reports (RFC 9989)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Final

import trio
from pydantic import BaseModel, Field

from postward import dkim
from postward.errors import InvalidName
from postward.hookspecs import hookimpl
from postward.model import MICROSECONDS, AuthResult, Disposition, InboundMessage, Judgement, MessageResult, WebRoute, day_of
from postward.names import Address, Domain
from postward_dmarc import spf
from postward_dmarc.evaluate import Evaluation, Identifier, evaluate
from postward_dmarc.from_header import authors
from postward_dmarc.questions import Ask, answer_all, remembering
from postward_dmarc.rows import KIND, row_of

if TYPE_CHECKING:
    from postward.core import Commands, Core
    from postward.model import ReportReceipt, ResultBatch, Schema
    from postward_dmarc.receiving import Receiver

DAY: Final = 86_400 * MICROSECONDS
SPF_WITHIN: Final = 20.0
EVALUATE_WITHIN: Final = 60.0


class Dmarc:
    """Authenticates by DKIM and SPF, judges by DMARC, and counts what it judged."""

    class Config(BaseModel, extra="forbid", frozen=True):
        """`reject`: let `p=reject` refuse a message by itself. DMARC asks receivers not to (RFC 9989 §7.4), so the default
        is to quarantine. `defer`: ask the client to come back when a DNS error leaves the policy unknown; the default is to
        accept.

        Received: `addresses` take mailed reports about their domains, `own_domains` are further domains to keep reports about,
        for `keep_days` days behind their end."""

        reject: bool = False
        defer: bool = False
        addresses: tuple[Address, ...] = ()
        own_domains: tuple[Domain, ...] = ()
        keep_days: int = Field(default=400, ge=1, le=36_500)

    def __init__(self, config: Config, core: Core) -> None:
        self._config, self._core = config, core

    @hookimpl
    def register_schema(self) -> Schema:
        """The counted evaluations."""
        from postward_dmarc import tables

        return tables.SCHEMA

    @hookimpl
    async def authenticate(self, message: InboundMessage) -> Sequence[AuthResult]:
        """DKIM of every signature, and SPF of the MAIL FROM identity (RFC 8601 §2.7.1, §2.7.2)."""
        signatures: list[dkim.Signature] = []
        found: list[spf.SpfResult] = []

        async def check_signatures() -> None:
            signatures.extend(await dkim.verify(message.content, self._core.dns, at=message.received or None))

        async def check_sender() -> None:
            found.append(await self._spf(message))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(check_signatures)
            nursery.start_soon(check_sender)
        results = [_dkim_result(signature) for signature in signatures] or [AuthResult(method="dkim", result="none")]
        return [*results, _spf_result(found[0], message.sender is None)]

    async def _spf(self, message: InboundMessage) -> spf.SpfResult:
        asker = spf.check(message.client_ip, message.helo, message.sender)
        with trio.move_on_after(SPF_WITHIN):
            return await answer_all(asker, remembering(self._core.dns))
        domain = message.sender.domain if message.sender else None
        return spf.SpfResult(domain=domain, result="temperror", reason="took longer than 20 seconds")

    @hookimpl
    async def judge(self, message: InboundMessage, results: Sequence[AuthResult]) -> Judgement:
        """The disposition that DMARC asks for (RFC 9989 §5.4), and the row to count."""
        evaluation = await self.evaluate(message, results)
        properties = [("header.from", str(evaluation.author))] if evaluation.author else []
        if evaluation.record is not None:
            properties.append(("policy.dmarc", evaluation.published.word))
        auth = AuthResult(
            method="dmarc", result=evaluation.result, properties=tuple(properties), reason=evaluation.reason, data=evaluation
        )
        row = row_of(message, evaluation)
        day = day_of(message.received or self._core.clock.now())
        counted = () if row is None else (MessageResult(day=day, kind=KIND, data=row),)
        disposition, reason, reply = self._disposition(evaluation)
        return Judgement(disposition=disposition, reason=reason, reply=reply, auth=(auth,), results=counted)

    async def evaluate(self, message: InboundMessage, results: Sequence[AuthResult]) -> Evaluation:
        """Evaluate a message with the results of `authenticate`, whichever plugin they came from."""
        who = authors(message.content)
        sender, signatures = _identifiers(results)
        if who.single is None:
            # No author to protect can be named, and that is what a forger would want.
            return Evaluation(
                author=None, result="permerror", reason=who.problem, disposition="quarantine", spf=sender, dkim=signatures
            )
        asker = evaluate(who.single, sender, signatures, reject=self._config.reject)
        ask: Ask = remembering(self._core.dns)
        with trio.move_on_after(EVALUATE_WITHIN):
            return await answer_all(asker, ask)
        return Evaluation(author=who.single, result="temperror", reason="DNS took too long", spf=sender, dkim=signatures)

    def _disposition(self, evaluation: Evaluation) -> tuple[Disposition, str, str]:
        domain = evaluation.policy_domain
        if evaluation.disposition == "reject":
            return Disposition.REJECT, f"DMARC policy of {domain}", f"550 5.7.1 rejected by the DMARC policy of {domain}"
        if evaluation.disposition == "quarantine":
            return Disposition.QUARANTINE, f"DMARC policy of {domain}" if domain else evaluation.reason, ""
        if evaluation.result == "temperror" and self._config.defer:
            return Disposition.DEFER, evaluation.reason, "451 4.7.1 the DMARC policy cannot be looked up at the moment"
        return Disposition.ACCEPT, "", ""

    @hookimpl
    async def emit(self, batch: ResultBatch) -> None:
        """Count evaluations, each once."""
        increments: Counter[tuple[str, str]] = Counter()
        for entry in batch.entries:
            if isinstance(entry.result, MessageResult) and entry.result.kind == KIND:
                increments[entry.result.day, entry.result.data] += entry.count
        if not increments:
            return
        from postward_dmarc import tables

        await self._core.store.consume(batch, lambda connection: tables.count(connection, increments))

    # --- receiving ---

    @cached_property
    def receiver(self) -> Receiver:
        """What takes in reports about us: where they are received, what is configured, what is signed for here."""
        from postward_dmarc.receiving import Receiver

        config = self._config
        own = {address.domain for address in config.addresses} | set(config.own_domains) | set(self._core.signer.domains)
        return Receiver(self._core, frozenset(map(str, own)), keep_days=config.keep_days)

    @hookimpl
    def report_addresses(self) -> Sequence[Address]:
        """Those that are configured."""
        return self._config.addresses

    @hookimpl
    async def receive_report(self, message: InboundMessage, results: Sequence[AuthResult]) -> ReportReceipt | None:
        """Take in DMARC reports that came to one of our addresses (RFC 9990 §3.5)."""
        ours = set(self._config.addresses)
        return await self.receiver.by_mail(message, results) if ours.intersection(message.recipients) else None

    @hookimpl
    async def background(self) -> None:
        """Once a day, forget the reports that are older than they are kept."""
        clock = self._core.clock
        while True:
            await self.receiver.forget_old()
            await clock.sleep_until(clock.now() + DAY)

    @hookimpl
    def register_routes(self) -> Sequence[WebRoute]:
        """What others reported about our domains."""
        from postward_dmarc import received_pages

        return received_pages.routes(self._core)

    @hookimpl
    def register_commands(self, commands: Commands) -> None:
        """`postward dmarc evaluate`, `parse` and `received`."""
        from postward_dmarc import command, parse_command, received_command

        command.register(self, commands)
        parse_command.register(self, commands)
        received_command.register(commands)


def _dkim_result(signature: dkim.Signature) -> AuthResult:
    pairs = (
        ("header.d", signature.domain),
        ("header.i", signature.identity),
        ("header.s", signature.selector),
        ("header.a", signature.algorithm),
        ("header.b", signature.value[:8]),
    )
    return AuthResult(
        method="dkim",
        result=signature.result,
        properties=tuple((name, str(value)) for name, value in pairs if value),
        reason=signature.reason,
        data=signature,
    )


def _spf_result(result: spf.SpfResult, null_path: bool) -> AuthResult:
    name = "smtp.helo" if null_path else "smtp.mailfrom"
    properties = ((name, str(result.domain)),) if result.domain else ()
    reason = "" if result.result in ("pass", "fail") else result.reason
    return AuthResult(method="spf", result=result.result, properties=properties, reason=reason, data=result)


def _identifiers(results: Sequence[AuthResult]) -> tuple[Identifier | None, tuple[Identifier, ...]]:
    """The MAIL FROM identity and the signatures among authentication results."""
    sender: Identifier | None = None
    signatures: list[Identifier] = []
    for result in results:
        known = dict(result.properties)
        if result.method == "spf" and sender is None:
            domain = _domain(known.get("smtp.mailfrom", "") or known.get("smtp.helo", ""))
            sender = Identifier(domain=domain, result=result.result, scope="mfrom", reason=result.reason)
        elif result.method == "dkim" and result.result != "none":
            selector = known.get("header.s", "")
            signature = Identifier(
                domain=_domain(known.get("header.d", "")), result=result.result, selector=selector, reason=result.reason
            )
            signatures.append(signature)
    return sender, tuple(signatures)


def _domain(text: str) -> Domain | None:
    try:
        return Domain(text.rpartition("@")[2]) if text else None
    except InvalidName:
        return None
