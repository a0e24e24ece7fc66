"""Records and policies against the grammar of RFC 8461 §3.1, §3.2, written down a second time as regular expressions.

Texts are mutated from good ones. What the grammar makes must be read, and what is read without being in it must be one of the
few things that are let pass on purpose.
"""

from __future__ import annotations

import re
from typing import Final

from hypothesis import given, settings
from hypothesis import strategies as st

from postward_mtasts import policy, record
from postward_mtasts.policy import PolicyError
from postward_mtasts.record import RecordError

_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,31}"

# sts-text-record; `id` is no name of an extension, although the grammar alone would allow it
_DELIMITER: Final = r"[ \t]*;[ \t]*"
_RECORD_FIELD: Final = rf"(?:id=[A-Za-z0-9]{{1,32}}|(?!id=){_NAME}=[\x21-\x3a\x3c\x3e-\x7e]+)"
_RECORD: Final = re.compile(rf"v=STSv1(?:{_DELIMITER}{_RECORD_FIELD})+(?:{_DELIMITER})?")
# Let pass: `=` in a value, an empty value, white space at the end, and any value of an id that is not the first.
_MORE: Final = rf"(?:id=[\x21-\x3a\x3c-\x7e]*|{_NAME}=[\x21-\x3a\x3c-\x7e]*)"
_RECORD_PASSED: Final = re.compile(rf"v=STSv1(?:{_DELIMITER}{_MORE})+(?:{_DELIMITER})?[ \t]*")

# sts-policy-record; a domain is that of RFC 5321 §4.1.2
_LABEL: Final = r"[A-Za-z0-9](?:[A-Za-z0-9\-]{0,61}[A-Za-z0-9])?"
_VALUE: Final = r"[\x21-\x7e\x80-\U0010ffff](?:[\x20-\x7e\x80-\U0010ffff]*[\x21-\x7e\x80-\U0010ffff])?"
_MX: Final = rf"mx:[ \t]*(?:\*\.)?{_LABEL}(?:\.{_LABEL})*"
_KNOWN: Final = rf"version:[ \t]*STSv1|mode:[ \t]*(?:testing|enforce|none)|max_age:[ \t]*[0-9]{{1,10}}|{_MX}"
_FIELD: Final = rf"(?:{_KNOWN}|(?!(?:version|mode|max_age|mx):){_NAME}:[ \t]*{_VALUE})[ \t]*"
_POLICY: Final = re.compile(rf"{_FIELD}(?:\r?\n{_FIELD})*(?:\r?\n)?")
# Let pass: empty lines, a tab in a value, `_` in a host name, and any value of what has been said before.
_PASSED_MX: Final = r"mx:[ \t]*(?:\*\.)?[A-Za-z0-9_][A-Za-z0-9_.\-]*"
_PASSED_FIELD: Final = rf"(?:{_PASSED_MX}|(?!mx:){_NAME}:[ \t]*[\t\x20-\x7e\x80-\U0010ffff]+)?[ \t]*"
_POLICY_PASSED: Final = re.compile(rf"{_PASSED_FIELD}(?:\r?\n{_PASSED_FIELD})*")

_RECORDS: Final = ("v=STSv1; id=20160831085700Z;", "v=STSv1;id=a;x=y", "v=STSv1 ; x.y-z_=1 ; id=Ab ;\t", "v=STSv1; id=a; id=b")
_POLICIES: Final = (
    "version: STSv1\r\nmode: enforce\r\nmx: mail.example.com\r\nmx: *.example.net\r\nmax_age: 604800\r\n",
    "mode:none\nversion:STSv1\nmax_age:1\nnew: \xfc x y",
    "version: STSv1\nmode: testing\nmode: none\nmax_age: 31557600\nmx: a.b\nmx:c-d.e \n",
)


def mutated(seeds: tuple[str, ...], alphabet: str) -> st.SearchStrategy[str]:
    """Seeds in which up to three places were inserted, deleted or replaced."""
    edit = st.tuples(st.floats(0, 1, exclude_max=True), st.sampled_from([0, 1]), st.sampled_from(["", *alphabet]))

    def apply(seed: str, edits: list[tuple[float, int, str]]) -> str:
        for where, length, new in edits:
            place = int(where * (len(seed) + 1))
            seed = seed[:place] + new + seed[place + length :]
        return seed

    return st.builds(apply, st.sampled_from(seeds), st.lists(edit, max_size=3))


@settings(max_examples=1500)
@given(mutated(_RECORDS, "v=STSv1;id ;\t=\n\r\0\xe9._-aZ9\x7f"))
def test_records(text: str) -> None:
    try:
        read = record.parse(text)
    except RecordError:
        assert not (_RECORD.fullmatch(text) and re.search(r";[ \t]*id=", text)), text
        return
    assert _RECORD_PASSED.fullmatch(text), text
    first = re.search(r";[ \t]*id=([A-Za-z0-9]{1,32})[ \t]*(?:;|$)", text)
    assert first is not None
    assert read.id == first[1]


@settings(max_examples=1500)
@given(mutated(_POLICIES, "versionmdaxg:_*.\r\n \t-\0\ufeff\xfc\x85\u2028\x1b09AZ[@"))
def test_policies(text: str) -> None:
    said: dict[str, list[str]] = {}
    for line in re.split(r"\r?\n", text):
        key, _, value = line.partition(":")
        said.setdefault(key, []).append(value.strip(" \t"))
    complete = {"version", "mode", "max_age"} <= said.keys() and ("mx" in said or said["mode"][0] == "none")
    try:
        read = policy.parse(text)
    except PolicyError:
        assert not (_POLICY.fullmatch(text) and complete), text
        return
    assert _POLICY_PASSED.fullmatch(text), text
    assert complete
    assert (said["version"][0], said["mode"][0]) == ("STSv1", read.mode.value)
    assert read.max_age == min(int(said["max_age"][0]), policy.MAX_AGE)
    assert list(read.mx) == list(dict.fromkeys(pattern.lower() for pattern in said.get("mx", ())))
    shown = policy.parse("\n".join(policy.lines(text)))
    assert (shown.mode, shown.max_age, shown.mx) == (read.mode, read.max_age, read.mx), "reports say what acts"
