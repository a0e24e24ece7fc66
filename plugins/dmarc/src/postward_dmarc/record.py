"""DMARC policy records (RFC 9989 §4.7, §4.8).

A tag with a bad value counts as if it were not there; what was passed over is kept in `notes` for whoever wants to mend it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

_VERSION: Final = re.compile(r"v[ \t]*=[ \t]*DMARC1[ \t]*(?:;|$)")
_TAG: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_SIZE: Final = re.compile(r"![0-9]{1,12}[kmgt]?$", re.IGNORECASE)
_URI: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[!-~]+")
_MAX_TAGS: Final = 64
_MAX_URIS: Final = 20
_REMOVED: Final = {"pct": "t=y replaces it", "rf": "it has no use any more", "ri": "reports are daily"}


class Policy(IntEnum):
    """What a domain asks for, mildest first."""

    NONE = 0
    QUARANTINE = 1
    REJECT = 2

    @property
    def word(self) -> str:
        """The word in records, headers and reports."""
        return self.name.lower()

    @property
    def milder(self) -> Policy:
        """One level lower, as `t=y` asks (RFC 9989 §4.7)."""
        return Policy(max(self - 1, 0))


_POLICIES: Final = {policy.word: policy for policy in Policy}


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A DMARC record that was understood.

    `policy`, `subdomain`, `nonexistent` are None when the tag is missing or bad. `usable` is False when the record asks for
    nothing: no good `p`, or a bad `sp` or `np`, and nobody to report to (RFC 9989 §4.10.1); it still counts in a tree walk.
    `psd` is `y`, `n` or `u`. `rua` and `ruf` are URIs without obsolete size limits.
    """

    policy: Policy | None = None
    subdomain: Policy | None = None
    nonexistent: Policy | None = None
    strict_dkim: bool = False
    strict_spf: bool = False
    failure_options: tuple[str, ...] = ("0",)
    psd: str = "u"
    testing: bool = False
    rua: tuple[str, ...] = ()
    ruf: tuple[str, ...] = ()
    usable: bool = True
    notes: tuple[str, ...] = ()

    def own(self) -> Policy:
        """The policy for the domain that the record stands at."""
        return Policy.NONE if self.policy is None else self.policy

    def inherited(self, *, exists: bool) -> Policy:
        """The policy for a name below: `sp`, or `np` where the name does not exist, each falling back (RFC 9989 §4.7)."""
        below = self.own() if self.subdomain is None else self.subdomain
        return below if exists or self.nonexistent is None else self.nonexistent


def is_dmarc(text: str) -> bool:
    """Whether a TXT record says that it is a DMARC record; others at the same name are not looked at (RFC 9989 §4.7)."""
    return _VERSION.match(text) is not None


def parse(text: str) -> Record | None:
    """Read a record; None when `v=DMARC1` does not come first."""
    if not is_dmarc(text):
        return None
    tags, notes = _tags(text)
    policy, bad_policy = _policy(tags, "p", notes)
    subdomain, bad_subdomain = _policy(tags, "sp", notes)
    nonexistent, bad_nonexistent = _policy(tags, "np", notes)
    rua, ruf = _uris(tags, "rua", notes), _uris(tags, "ruf", notes)
    broken = policy is None or bad_policy or bad_subdomain or bad_nonexistent
    if broken:
        # With somebody to tell, such a record acts as p=none in full; without, it is no policy at all (§4.10.1).
        policy, subdomain, nonexistent = Policy.NONE, None, None
    return Record(
        policy=policy,
        subdomain=subdomain,
        nonexistent=nonexistent,
        strict_dkim=_choice(tags, "adkim", "rs", "r", notes) == "s",
        strict_spf=_choice(tags, "aspf", "rs", "r", notes) == "s",
        failure_options=_failure_options(tags, notes) if ruf else ("0",),
        psd=_choice(tags, "psd", "ynu", "u", notes),
        testing=_choice(tags, "t", "yn", "n", notes) == "y",
        rua=rua,
        ruf=ruf,
        usable=not broken or bool(rua),
        notes=tuple(notes),
    )


def _tags(text: str) -> tuple[dict[str, str], list[str]]:
    tags: dict[str, str] = {}
    notes: list[str] = []
    for part in text.split(";")[1:_MAX_TAGS]:
        name, equals, value = part.partition("=")
        name, value = name.strip(" \t").lower(), value.strip(" \t")
        if not part.strip(" \t"):
            continue
        if not equals or _TAG.fullmatch(name) is None:
            notes.append(f"not a tag: {part.strip()[:40]!r}")
        elif name in tags or name == "v":
            notes.append(f"{name}= is there again")
        else:
            tags[name] = value
            if name in _REMOVED:
                notes.append(f"{name}= is obsolete: {_REMOVED[name]}")
    return tags, notes


def _policy(tags: dict[str, str], tag: str, notes: list[str]) -> tuple[Policy | None, bool]:
    """The value of a policy tag, and whether it is there but bad."""
    if tag not in tags:
        return None, False
    policy = _POLICIES.get(tags[tag].lower())
    if policy is None:
        notes.append(f"{tag}= is no policy: {tags[tag][:40]!r}")
    return policy, policy is None


def _choice(tags: dict[str, str], tag: str, allowed: str, default: str, notes: list[str]) -> str:
    value = tags.get(tag, default).lower()
    if len(value) == 1 and value in allowed:
        return value
    notes.append(f"{tag}= has no such value: {value[:40]!r}")
    return default


def _failure_options(tags: dict[str, str], notes: list[str]) -> tuple[str, ...]:
    options = tuple(option.strip(" \t").lower() for option in tags.get("fo", "0").split(":"))
    if set(options) <= {"0", "1", "d", "s"} and not {"0", "1"} <= set(options):
        return tuple(dict.fromkeys(options))
    notes.append(f"fo= has no such value: {tags['fo'][:40]!r}")
    return ("0",)


def _uris(tags: dict[str, str], tag: str, notes: list[str]) -> tuple[str, ...]:
    uris: list[str] = []
    for item in tags.get(tag, "").split(",")[:_MAX_URIS]:
        uri = _SIZE.sub("", item.strip(" \t"))
        if _URI.fullmatch(uri):
            uris.append(uri)
        elif uri or tag in tags:
            notes.append(f"{tag}= holds what is no URI: {uri[:60]!r}")
    return tuple(dict.fromkeys(uris))
