"""The cases of the lab: an internet of every kind of mail host, as data.

What must come of each follows RFC 8461 (MTA-STS), RFC 7672 (DANE), RFC 8689 (REQUIRETLS), RFC 7435 (opportunistic
security) and RFC 8460 §4.3 (result types).
"""

from __future__ import annotations

from typing import Final

from postward.lab.case import Case, Certificate, Host, Policy, sts, tlsa
from postward.lab.cases_dane import BOTH, DANE, OWN_KEY
from postward.lab.https import Serving
from postward.lab.mx import Behaviour
from postward.lab.zones import BOGUS, Signing
from postward.model import Mode, ResultType, TlsWish

_ENFORCE, _TESTING, _NONE = Mode.ENFORCE, Mode.TESTING, Mode.NONE
_MISMATCH = ResultType.CERTIFICATE_HOST_MISMATCH
_EXPIRED = ResultType.CERTIFICATE_EXPIRED
_UNTRUSTED = ResultType.CERTIFICATE_NOT_TRUSTED
_INVALID = ResultType.VALIDATION_FAILURE
_NO_STARTTLS = ResultType.STARTTLS_NOT_SUPPORTED
_DNSSEC = ResultType.DNSSEC_INVALID
_FETCH = ResultType.STS_POLICY_FETCH_ERROR
_WEBPKI = ResultType.STS_WEBPKI_INVALID
_SYNTAX = ResultType.STS_POLICY_INVALID

_HTTPS: Final = ("https",)
_BOTH: Final = ("mail", "https")

OPPORTUNISTIC: Final = (
    Case(name="plain", why="no policy, good TLS", by=_BOTH),
    Case(
        name="plain-self-signed",
        why="no policy: a certificate that nobody can verify still protects from eavesdropping",
        hosts=(Host(certificate=Certificate.SELF_SIGNED),),
    ),
    Case(
        name="plain-no-starttls",
        why="no policy and no STARTTLS: in clear, and counted as a failure",
        hosts=(Host(behaviour=Behaviour.NO_STARTTLS),),
        by=_HTTPS,
    ),
    Case(
        name="plain-starttls-refused",
        why="no policy, STARTTLS answered with 454: in clear on a fresh connection",
        hosts=(Host(behaviour=Behaviour.STARTTLS_REFUSED),),
    ),
    Case(
        name="plain-old-tls",
        why="no policy, TLS 1.0 only: in clear on a fresh connection",
        hosts=(Host(behaviour=Behaviour.OLD_TLS),),
    ),
    Case(
        name="plain-late-alert",
        why="no policy, an alert at the first read behind a TLS 1.3 handshake: no success, in clear",
        hosts=(Host(behaviour=Behaviour.CLIENT_CERTIFICATE),),
    ),
    Case(
        name="plain-garbage",
        why="no policy, plaintext where a handshake is due: in clear on a fresh connection",
        hosts=(Host(behaviour=Behaviour.GARBAGE),),
    ),
    Case(
        name="plain-hang-up",
        why="no policy, the host hangs up in the handshake: in clear on a fresh connection",
        hosts=(Host(behaviour=Behaviour.HANGS_UP),),
    ),
    Case(
        name="plain-no-close-notify",
        why="no policy, a host that ends TLS without a word: SMTP says itself when it is over, so the mail is delivered",
        hosts=(Host(behaviour=Behaviour.NO_CLOSE_NOTIFY),),
    ),
    Case(
        name="plain-injection",
        why="no policy, a reply slipped in behind the 220 of STARTTLS: never read as part of TLS",
        hosts=(Host(behaviour=Behaviour.INJECTION),),
        by=_HTTPS,
    ),
    Case(name="plain-slow", why="no policy, a host that answers drop by drop", hosts=(Host(behaviour=Behaviour.SLOW),)),
)

STS: Final = (
    Case(name="sts-good", why="MTA-STS satisfied", policy=Policy(), hosts=(Host(lines=(sts(_ENFORCE),)),), by=_BOTH),
    Case(
        name="sts-wildcard",
        why="the policy names the host by a pattern",
        policy=Policy(mx=("*",)),
        hosts=(Host(lines=(sts(_ENFORCE),)),),
        signing=Signing.INSECURE,
    ),
    Case(
        name="sts-wrong-name",
        why="MTA-STS, certificate of another host",
        policy=Policy(),
        hosts=(Host(certificate=Certificate.WRONG_NAME, lines=(sts(_ENFORCE, _MISMATCH),)),),
    ),
    Case(
        name="sts-expired",
        why="MTA-STS, expired certificate",
        policy=Policy(),
        hosts=(Host(certificate=Certificate.EXPIRED, lines=(sts(_ENFORCE, _EXPIRED),)),),
        by=_HTTPS,
    ),
    Case(
        name="sts-self-signed",
        why="MTA-STS, certificate that no authority vouches for",
        policy=Policy(),
        hosts=(Host(certificate=Certificate.SELF_SIGNED, lines=(sts(_ENFORCE, _UNTRUSTED),)),),
    ),
    Case(
        name="sts-mx-not-listed",
        why="MTA-STS, the policy does not name the host: not even dialled",
        policy=Policy(mx=("other",)),
        hosts=(Host(lines=(sts(_ENFORCE, _INVALID),)),),
    ),
    Case(
        name="sts-no-starttls",
        why="MTA-STS, STARTTLS not offered, as if somebody had cut it out",
        policy=Policy(),
        hosts=(Host(behaviour=Behaviour.NO_STARTTLS, lines=(sts(_ENFORCE, _NO_STARTTLS),)),),
        signing=Signing.INSECURE,
    ),
    Case(
        name="sts-late-alert",
        why="MTA-STS, an alert at the first read behind the handshake",
        policy=Policy(),
        hosts=(Host(behaviour=Behaviour.CLIENT_CERTIFICATE, lines=(sts(_ENFORCE, _INVALID),)),),
    ),
    Case(
        name="sts-second-mx",
        why="MTA-STS, the first host fails, the second takes the mail",
        policy=Policy(mx=("mx1", "mx2")),
        hosts=(
            Host(label="mx1", certificate=Certificate.WRONG_NAME, lines=(sts(_ENFORCE, _MISMATCH),)),
            Host(label="mx2", lines=(sts(_ENFORCE),)),
        ),
        by=_HTTPS,
    ),
    Case(
        name="sts-testing-good",
        why="MTA-STS in testing, satisfied",
        policy=Policy(mode=_TESTING),
        hosts=(Host(lines=(sts(_TESTING),)),),
    ),
    Case(
        name="sts-testing-wrong-name",
        why="MTA-STS in testing, certificate of another host: delivered, and told",
        policy=Policy(mode=_TESTING),
        hosts=(Host(certificate=Certificate.WRONG_NAME, lines=(sts(_TESTING, _MISMATCH),)),),
    ),
    Case(
        name="sts-testing-expired",
        why="MTA-STS in testing, expired certificate: delivered, and told",
        policy=Policy(mode=_TESTING),
        hosts=(Host(certificate=Certificate.EXPIRED, lines=(sts(_TESTING, _EXPIRED),)),),
    ),
    Case(
        name="sts-testing-self-signed",
        why="MTA-STS in testing, certificate that no authority vouches for: delivered, and told",
        policy=Policy(mode=_TESTING),
        hosts=(Host(certificate=Certificate.SELF_SIGNED, lines=(sts(_TESTING, _UNTRUSTED),)),),
        by=_HTTPS,
    ),
    Case(
        name="sts-testing-mx-not-listed",
        why="MTA-STS in testing, the policy does not name the host: delivered, and told",
        policy=Policy(mode=_TESTING, mx=("other",)),
        hosts=(Host(lines=(sts(_TESTING, _INVALID),)),),
    ),
    Case(
        name="sts-testing-no-starttls",
        why="MTA-STS in testing, no STARTTLS: delivered in clear, and told",
        policy=Policy(mode=_TESTING),
        hosts=(Host(behaviour=Behaviour.NO_STARTTLS, lines=(sts(_TESTING, _NO_STARTTLS),)),),
    ),
    Case(name="sts-mode-none", why="MTA-STS taken back: as no policy", policy=Policy(mode=_NONE)),
    Case(
        name="sts-policy-404",
        why="the policy cannot be fetched and none is cached: as no policy, and told",
        policy=Policy(serving=Serving.MISSING),
        hosts=(Host(lines=(sts(_NONE, _FETCH),)),),
        by=_HTTPS,
    ),
    Case(
        name="sts-policy-redirect",
        why="the policy host sends elsewhere, which must not be followed",
        policy=Policy(serving=Serving.REDIRECT),
        hosts=(Host(lines=(sts(_NONE, _FETCH),)),),
    ),
    Case(
        name="sts-policy-oversized",
        why="a policy without end",
        policy=Policy(serving=Serving.OVERSIZED),
        hosts=(Host(lines=(sts(_NONE, _FETCH),)),),
    ),
    Case(
        name="sts-policy-slow",
        why="a policy host that answers drop by drop",
        policy=Policy(serving=Serving.SLOW),
        hosts=(Host(lines=(sts(_ENFORCE),)),),
    ),
    Case(
        name="sts-policy-expired",
        why="the policy host has an expired certificate",
        policy=Policy(certificate=Certificate.EXPIRED),
        hosts=(Host(lines=(sts(_NONE, _WEBPKI),)),),
    ),
    Case(
        name="sts-policy-untrusted",
        why="the policy host has a certificate that no authority vouches for",
        policy=Policy(certificate=Certificate.SELF_SIGNED),
        hosts=(Host(lines=(sts(_NONE, _WEBPKI),)),),
    ),
    Case(
        name="sts-policy-wrong-name",
        why="the policy host has the certificate of another host",
        policy=Policy(certificate=Certificate.WRONG_NAME),
        hosts=(Host(lines=(sts(_NONE, _WEBPKI),)),),
    ),
    Case(
        name="sts-policy-web-page",
        why="a web page in the place of a policy, with status 200",
        policy=Policy(text="<!DOCTYPE html>\n<title>Welcome</title>\n"),
        hosts=(Host(lines=(sts(_NONE, _SYNTAX),)),),
    ),
    Case(
        name="sts-policy-syntax",
        why="a policy that cannot be read",
        policy=Policy(text="version: STSv1\r\nmode: enfroce\r\nmax_age: 86400\r\nmx: mx.sts-policy-syntax.test\r\n"),
        hosts=(Host(lines=(sts(_NONE, _SYNTAX),)),),
        by=_HTTPS,
    ),
    Case(
        name="sts-two-records",
        why="two MTA-STS records, so none that counts",
        policy=Policy(records=("v=STSv1; id=1;", "v=STSv1; id=2;")),
        hosts=(Host(lines=(sts(_NONE, _FETCH),)),),
    ),
)

ROUTES: Final = (
    Case(name="null-mx", why="a domain that takes no mail (RFC 7505)", hosts=(), null_mx=True),
    Case(name="implicit-mx", why="no MX record: the domain's own address", implicit_mx=True),
    Case(name="cname-mx", why="an MX record that names an alias works all the same", hosts=(Host(alias=True),)),
    Case(
        name="bogus-mx",
        why="MX records with broken signatures: wait, and tell",
        mx_fault=BOGUS,
    ),
)

WISHES: Final = (
    Case(
        name="requiretls-proven",
        why="REQUIRETLS: DNSSEC vouches for the name and WebPKI for the host",
        wish=TlsWish.REQUIRE,
    ),
    Case(
        name="requiretls-unproven",
        why="REQUIRETLS, and nothing vouches for the name of the host: refused",
        wish=TlsWish.REQUIRE,
        signing=Signing.INSECURE,
    ),
    Case(
        name="requiretls-sts",
        why="REQUIRETLS: an enforced MTA-STS policy vouches for the host, though nothing is signed",
        wish=TlsWish.REQUIRE,
        policy=Policy(),
        signing=Signing.INSECURE,
        hosts=(Host(lines=(sts(_ENFORCE),)),),
    ),
    Case(
        name="requiretls-testing",
        why="REQUIRETLS, and MTA-STS only in testing: that vouches for nothing",
        wish=TlsWish.REQUIRE,
        policy=Policy(mode=_TESTING),
        signing=Signing.INSECURE,
        hosts=(Host(lines=(sts(_TESTING),)),),
    ),
    Case(
        name="requiretls-dane",
        why="REQUIRETLS: TLSA records vouch for a certificate that nobody else does",
        wish=TlsWish.REQUIRE,
        hosts=(Host(certificate=Certificate.SELF_SIGNED, tlsa=OWN_KEY, lines=(tlsa(),)),),
    ),
    Case(
        name="requiretls-unusable",
        why="REQUIRETLS, and TLSA records none of which is usable: TLS, but nothing that vouches (erratum 7705)",
        wish=TlsWish.REQUIRE,
        hosts=(Host(certificate=Certificate.SELF_SIGNED, tlsa=("1 1 1 {spki}",), lines=(tlsa(note=ResultType.TLSA_INVALID),)),),
    ),
    Case(
        name="tls-required-no-dane",
        why="TLS-Required: No overrules TLSA records that cannot be looked up, too",
        wish=TlsWish.IGNORE,
        hosts=(Host(tlsa=OWN_KEY, tlsa_fault=BOGUS, lines=(tlsa(_DNSSEC),)),),
    ),
    Case(
        name="tls-required-no",
        why="TLS-Required: No overrules MTA-STS, and the failure is counted all the same",
        wish=TlsWish.IGNORE,
        policy=Policy(),
        hosts=(Host(certificate=Certificate.EXPIRED, lines=(sts(_ENFORCE, _EXPIRED),)),),
    ),
)

CASES: Final = (*OPPORTUNISTIC, *STS, *DANE, *BOTH, *ROUTES, *WISHES)
