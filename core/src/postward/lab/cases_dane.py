"""The cases of the lab with TLSA records, alone and together with MTA-STS (RFC 7672, RFC 8461 §2)."""

from __future__ import annotations

from typing import Final

from postward.lab.case import Case, Certificate, Host, Policy, sts, tlsa
from postward.lab.https import Serving
from postward.lab.mx import Behaviour
from postward.lab.zones import BOGUS, SERVFAIL, UNSIGNED, Signing
from postward.model import Mode, ResultType

_ENFORCE, _TESTING, _NONE = Mode.ENFORCE, Mode.TESTING, Mode.NONE
_MISMATCH = ResultType.CERTIFICATE_HOST_MISMATCH
_EXPIRED = ResultType.CERTIFICATE_EXPIRED
_UNTRUSTED = ResultType.CERTIFICATE_NOT_TRUSTED
_INVALID = ResultType.VALIDATION_FAILURE
_NO_STARTTLS = ResultType.STARTTLS_NOT_SUPPORTED
_DNSSEC = ResultType.DNSSEC_INVALID
_FETCH = ResultType.STS_POLICY_FETCH_ERROR

OWN_KEY: Final = ("3 1 1 {spki}",)
_OTHER_KEY: Final = ("3 1 1 {wrong}",)
_HTTPS: Final = ("https",)
_BOTH: Final = ("mail", "https")

DANE: Final = (
    Case(name="dane-ee", why="DANE-EE matches the key", hosts=(Host(tlsa=OWN_KEY, lines=(tlsa(),)),), by=_BOTH),
    Case(
        name="dane-ee-expired",
        why="DANE-EE matches; expiry does not matter then",
        hosts=(Host(certificate=Certificate.EXPIRED, tlsa=OWN_KEY, lines=(tlsa(),)),),
    ),
    Case(
        name="dane-ee-self-signed",
        why="DANE-EE matches; nobody else has to vouch for the certificate",
        hosts=(Host(certificate=Certificate.SELF_SIGNED, tlsa=("3 0 1 {cert}", *_OTHER_KEY), lines=(tlsa(),)),),
    ),
    Case(
        name="dane-mismatch",
        why="DANE-EE, but another key: no mail, whatever WebPKI says",
        hosts=(Host(tlsa=_OTHER_KEY, lines=(tlsa(_INVALID),)),),
        by=_HTTPS,
    ),
    Case(
        name="dane-ta",
        why="DANE-TA names an authority that only DNS vouches for",
        hosts=(Host(certificate=Certificate.PRIVATE, tlsa=("2 0 1 {issuer}",), lines=(tlsa(),)),),
    ),
    Case(
        name="dane-ta-wrong-name",
        why="DANE-TA matches, but the certificate is for another host",
        hosts=(Host(certificate=Certificate.PRIVATE_WRONG_NAME, tlsa=("2 0 1 {issuer}",), lines=(tlsa(_MISMATCH),)),),
    ),
    Case(
        name="dane-unusable",
        why="TLSA records, none of them usable: TLS without authentication, never cleartext",
        hosts=(
            Host(
                certificate=Certificate.SELF_SIGNED,
                tlsa=("1 1 1 {spki}", "3 1 9 {spki}"),
                lines=(tlsa(note=ResultType.TLSA_INVALID),),
            ),
        ),
        by=_HTTPS,
    ),
    Case(
        name="dane-no-starttls",
        why="DANE, STARTTLS not offered, as if somebody had cut it out",
        hosts=(Host(behaviour=Behaviour.NO_STARTTLS, tlsa=OWN_KEY, lines=(tlsa(_NO_STARTTLS),)),),
    ),
    Case(
        name="dane-old-tls",
        why="DANE, TLS 1.0 only",
        hosts=(Host(behaviour=Behaviour.OLD_TLS, tlsa=OWN_KEY, lines=(tlsa(_INVALID),)),),
    ),
    Case(
        name="dane-unsigned-zone",
        why="TLSA records without DNSSEC say nothing",
        hosts=(Host(tlsa=_OTHER_KEY),),
        signing=Signing.INSECURE,
    ),
    Case(
        name="dane-unsigned-tlsa",
        why="signed addresses, but TLSA records from an unsigned zone: they say nothing",
        hosts=(Host(tlsa=_OTHER_KEY, tlsa_fault=UNSIGNED),),
    ),
    Case(
        name="dane-unsigned-mx",
        why="unsigned MX records name a host with signed TLSA records: they bind",
        mx_fault=UNSIGNED,
        hosts=(Host(tlsa=_OTHER_KEY, lines=(tlsa(_INVALID),)),),
    ),
    Case(
        name="dane-cname-mx",
        why="an MX record that names an alias, TLSA records at the alias",
        hosts=(Host(alias=True, certificate=Certificate.SELF_SIGNED, tlsa=OWN_KEY, lines=(tlsa(),)),),
    ),
    Case(
        name="dane-bogus",
        why="TLSA records with broken signatures: the host must not be used",
        hosts=(Host(tlsa=OWN_KEY, tlsa_fault=BOGUS, lines=(tlsa(_DNSSEC),)),),
        by=_HTTPS,
    ),
    Case(
        name="dane-servfail",
        why="TLSA records that cannot be looked up: not the same as none",
        hosts=(Host(tlsa=OWN_KEY, tlsa_fault=SERVFAIL, lines=(tlsa(_DNSSEC),)),),
    ),
    Case(
        name="dane-second-mx",
        why="DANE, the first host fails, the second takes the mail",
        hosts=(
            Host(label="mx1", tlsa=_OTHER_KEY, lines=(tlsa(_INVALID),)),
            Host(label="mx2", tlsa=OWN_KEY, lines=(tlsa(),)),
        ),
    ),
)

BOTH: Final = (
    Case(
        name="both-good",
        why="DANE and MTA-STS, both satisfied",
        policy=Policy(),
        hosts=(Host(tlsa=OWN_KEY, lines=(sts(_ENFORCE), tlsa())),),
    ),
    Case(
        name="both-sts-fails",
        why="DANE is satisfied, MTA-STS is not: every enforcing policy counts",
        policy=Policy(),
        hosts=(Host(certificate=Certificate.SELF_SIGNED, tlsa=OWN_KEY, lines=(sts(_ENFORCE, _UNTRUSTED), tlsa())),),
    ),
    Case(
        name="both-dane-fails",
        why="MTA-STS is satisfied, DANE is not, and cannot be overridden (RFC 8461 §2)",
        policy=Policy(),
        hosts=(Host(tlsa=_OTHER_KEY, lines=(sts(_ENFORCE), tlsa(_INVALID))),),
        by=_HTTPS,
    ),
    Case(
        name="both-fail",
        why="neither DANE nor MTA-STS is satisfied: both are told",
        policy=Policy(),
        hosts=(Host(certificate=Certificate.EXPIRED, tlsa=_OTHER_KEY, lines=(sts(_ENFORCE, _EXPIRED), tlsa(_INVALID))),),
    ),
    Case(
        name="both-not-to-be-had",
        why="TLSA records that cannot be looked up rule the host out, a policy that cannot be fetched is told all the same",
        policy=Policy(serving=Serving.MISSING),
        hosts=(Host(tlsa=OWN_KEY, tlsa_fault=SERVFAIL, lines=(sts(_NONE, _FETCH), tlsa(_DNSSEC))),),
    ),
    Case(
        name="both-testing-dane-fails",
        why="MTA-STS in testing is satisfied and changes nothing: DANE is not",
        policy=Policy(mode=_TESTING),
        hosts=(Host(tlsa=_OTHER_KEY, lines=(sts(_TESTING), tlsa(_INVALID))),),
    ),
    Case(
        name="both-sts-testing",
        why="DANE is satisfied, MTA-STS in testing is not: delivered, and told",
        policy=Policy(mode=_TESTING),
        hosts=(Host(certificate=Certificate.SELF_SIGNED, tlsa=OWN_KEY, lines=(sts(_TESTING, _UNTRUSTED), tlsa())),),
    ),
)
