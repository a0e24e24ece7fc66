"""The resolver of a running Postward: a stub in front of a validating name server.

It never validates itself; it decides whom to believe. Once a believed server has failed to answer, a server that is not
believed is not asked either: else whoever breaks a signature would turn "bogus" into "insecure" and so switch DANE off
(RFC 7672 §2.1.2). Only a believed server that cannot be reached at all leaves the question to the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import dns.name
import dns.rdatatype
import trio

from postward.dns import wire
from postward.dns.answer import Answer
from postward.dns.cache import AnswerCache, Key
from postward.dns.health import Tally
from postward.dns.nameserver import Nameserver, TrustAd, find_nameservers
from postward.dns.selftest import SelfTest, self_test
from postward.dns.transport import SocketTransport, Transport
from postward.errors import InvalidName
from postward.names import Domain

_MAX_CONCURRENT: Final = 256


class _Flight:
    """A question that is under way, for those who ask it meanwhile."""

    __slots__ = ("answer", "landed")

    def __init__(self) -> None:
        self.landed = trio.Event()
        self.answer: Answer | None = None


class SystemResolver:
    """Asks name servers in the order of their configuration (RFC 1035 §7.2, RFC 6840 §5.7).

    `nameservers` are texts as in `127.0.0.1:53` or `[::1]:53`; None takes those of `resolv_conf`, read once, here.
    `trust_ad` says whose AD bit counts: that of `loopback` servers (and of all, with `options trust-ad` in resolv.conf),
    `always`, or `never`. `timeout` bounds a question in all, `try_timeout` one exchange with one server; both seconds.
    `cache` is the number of answers kept, 0 for none. Raises `ConfigError` for servers that are none.

    Once a self-test found that nobody validates, no answer counts as secure until one has found the opposite. `tally` counts
    what lookups came to.
    """

    def __init__(
        self,
        nameservers: Sequence[str] | None = None,
        *,
        trust_ad: TrustAd = "loopback",
        timeout: float = 30,
        try_timeout: float = 5,
        cache: int = 10_000,
        resolv_conf: Path = Path("/etc/resolv.conf"),
        transport: Transport | None = None,
    ) -> None:
        self.nameservers = find_nameservers(nameservers, trust_ad, resolv_conf)
        self.validating: bool | None = None
        self.problems: Sequence[str] = ()
        self.tally = Tally()
        self._timeout, self._try_timeout, self._cache_size = timeout, try_timeout, cache
        self._transport: Transport = transport or SocketTransport()
        self._cache = AnswerCache(cache)
        self._flights: dict[Key, _Flight] = {}
        self._slots = trio.CapacityLimiter(_MAX_CONCURRENT)

    async def query(self, name: Domain | str, rdtype: str) -> Answer:
        """Ask one question, following CNAMEs. Equal questions under way at once are asked once.

        Raises `InvalidName` for a text that is no domain name and for address literals, `ValueError` for an unknown type;
        what the network or a name server did is in the answer.
        """
        domain, rdtype = Domain(name), rdtype.upper()
        # First of all: a warm answer costs less than any of the checks, and what is in the cache has passed them.
        if cached := self._cache.get((str(domain), rdtype), trio.current_time()):
            return cached
        if domain.is_literal:
            raise InvalidName(f"an address literal has no DNS records: {domain}")
        try:
            dns.rdatatype.from_text(rdtype)
        except dns.rdatatype.UnknownRdatatype:
            raise ValueError(f"not a record type: {rdtype!r}") from None
        with trio.move_on_after(self._timeout):
            return await self._shared(domain, rdtype)
        detail = f"no answer within {self._timeout:g} s"
        answer = wire.join(domain, rdtype, [wire.failed(dns.name.from_text(domain), "TIMEOUT", detail)])
        self.tally.note(answer)
        return answer

    async def addresses(self, name: Domain) -> tuple[Answer, Answer]:
        """Ask for A and AAAA side by side, in this order."""
        found: dict[str, Answer] = {}

        async def ask(rdtype: str) -> None:
            found[rdtype] = await self.query(name, rdtype)

        domain = Domain(name)
        if domain.is_literal:
            raise InvalidName(f"an address literal has no DNS records: {domain}")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "A")
            nursery.start_soon(ask, "AAAA")
        return found["A"], found["AAAA"]

    async def run_self_test(self, secure: str, bogus: str) -> SelfTest:
        """Find out whether the name servers validate, past the cache, and remember it in `validating` and `problems`.

        Without evidence `validating` stays as it was: a resolver that is silent has not begun to validate.
        """
        twin = SystemResolver(
            [str(server) for server in self.nameservers],
            timeout=self._timeout,
            try_timeout=self._try_timeout,
            cache=0,
            transport=self._transport,
        )
        twin.nameservers = self.nameservers
        result = await self_test(twin, secure, bogus)
        if not any(server.trusted for server in self.nameservers) and (secure or bogus):
            servers = ", ".join(str(server) for server in self.nameservers)
            hint = f"the AD bit of {servers} is not trusted: run a validating resolver on loopback, or see dns.trust_ad"
            result = SelfTest(validating=result.validating, problems=(hint, *result.problems))
        self.problems = result.problems
        if result.validating is not None and result.validating is not self.validating:
            self._cache = AnswerCache(self._cache_size)
            self.validating = result.validating
        return result

    async def _shared(self, name: Domain, rdtype: str) -> Answer:
        key = (str(name), rdtype)
        while True:
            if cached := self._cache.get(key, trio.current_time()):
                return cached
            flight = self._flights.get(key)
            if flight is None:
                break
            await flight.landed.wait()
            # No answer: whoever asked was cancelled, so somebody else has to ask.
            if flight.answer is not None:
                return flight.answer
        flight = self._flights[key] = _Flight()
        cache = self._cache
        try:
            async with self._slots:
                flight.answer = await self._follow(name, rdtype)
            self.tally.note(flight.answer)
            cache.put(key, flight.answer, trio.current_time())
            return flight.answer
        finally:
            del self._flights[key]
            flight.landed.set()

    async def _follow(self, name: Domain, rdtype: str) -> Answer:
        target = dns.name.from_text(name)
        readings: list[wire.Reading] = []
        seen: list[dns.name.Name] = []
        while True:
            reading = await self._ask(target, rdtype)
            if not reading.finished and (reading.chain[-1] in seen or len(seen) + len(reading.chain) > wire.MAX_ALIASES):
                reading = wire.failed(target, "LOOP", "the CNAMEs lead in a circle or on and on")
            readings.append(reading)
            if reading.finished:
                return wire.join(name, rdtype, readings)
            seen.extend(reading.chain)
            target = reading.chain[-1]

    async def _ask(self, name: dns.name.Name, rdtype: str) -> wire.Reading:
        """Ask the servers in turn, and those that kept silent again, until one answers."""
        servers = list(self.nameservers)
        told: wire.Reading | None = None
        last = wire.failed(name, "NETWORK", "no name server could be reached")
        for _ in range(max(1, round(self._timeout / self._try_timeout))):
            silent: list[Nameserver] = []
            believed_failed = False
            for server in servers:
                if believed_failed and not server.trusted:
                    continue
                reading = await self._exchange(server, name, rdtype)
                if reading.failure is None:
                    return reading
                last = reading
                if reading.failure.rcode == "TIMEOUT":
                    silent.append(server)
                elif told is None and reading.failure.rcode != "NETWORK":
                    told = reading
                believed_failed |= server.trusted and reading.failure.rcode != "NETWORK"
            if not silent:
                break
            servers = silent
        return told or last  # what a server said tells more than another's silence

    async def _exchange(self, server: Nameserver, name: dns.name.Name, rdtype: str) -> wire.Reading:
        query = wire.make_query(name, rdtype)
        dropped, cut = 0, False

        def accept(response: bytes) -> bool:
            nonlocal dropped
            accepted = wire.is_answer(query, response)
            dropped += not accepted
            return accepted

        try:
            with trio.fail_after(self._try_timeout):
                response = await self._transport.datagram(server, query, accept)
                if cut := wire.is_truncated(response):  # RFC 7766 §5
                    response = await self._transport.stream(server, query)
                    if not wire.is_answer(query, response) or wire.is_truncated(response):
                        return wire.failed(name, "MALFORMED", f"{server} answered something else over TCP")
        except trio.TooSlowError:
            others = f", {dropped} datagrams answered something else" if dropped else ""
            return wire.failed(name, "TIMEOUT", f"{server} did not answer within {self._try_timeout:g} s{others}")
        except OSError as exc:
            if cut:  # it was reached, so this is its failure, and nobody else is asked in its place
                return wire.failed(name, "MALFORMED", f"{server} cut its answer and gave no whole one: {exc.strerror or exc}")
            return wire.failed(name, "NETWORK", f"{server} could not be asked: {exc.strerror or exc}")
        trusted = server.trusted and self.validating is not False
        return wire.read(response, name, rdtype, trusted=trusted, server=str(server))
