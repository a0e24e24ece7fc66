"""Fuzz targets of received reports: whatever comes as a file or a mail is read, or is an error of one line."""

from __future__ import annotations

import gzip

from dmarc_samples import failure_mail, new, old, report_mail, zipped
from fuzzing import fuzz, mutated
from postward_dmarc.reading import message as dmarc
from postward_dmarc.reading.defects import DEFECTS as DMARC_DEFECTS
from postward_dmarc.reading.read import ReportError as DmarcError
from postward_tlsrpt import message as tls
from postward_tlsrpt.defects import DEFECTS as TLS_DEFECTS
from postward_tlsrpt.read import ReportError as TlsError
from tlsrpt_samples import CABLE, CLOUD_OFFICE, LARGE_MAIL, POSTFIX, as_json, mail, plain

TLS_SEEDS = [
    as_json(plain()),
    gzip.compress(as_json(plain())),
    mail(gzip.compress(as_json(plain()))),
    mail(as_json(plain()), "application/tlsrpt+json"),
    mail(gzip.compress(as_json(CABLE)), "application/gzip", top="multipart/mixed"),
    *map(as_json, (LARGE_MAIL, CLOUD_OFFICE, POSTFIX, CABLE)),
]
DMARC_SEEDS = [old(), new(), gzip.compress(old()), zipped(old(), new()), report_mail(), failure_mail()]


def tls_report(content: bytes) -> None:
    found = tls.reports_in(content)
    assert found
    for each in found:
        if isinstance(each, TlsError):
            assert "\n" not in str(each)
        else:
            assert set(each.defects) <= set(TLS_DEFECTS)
            assert each.successful >= 0
            assert each.failed >= 0


def dmarc_report(content: bytes) -> None:
    found = dmarc.reports_in(content)
    assert found
    for each in found:
        if isinstance(each, DmarcError):
            assert "\n" not in str(each)
        elif isinstance(each, dmarc.AggregateReading):
            assert set(each.defects) <= set(DMARC_DEFECTS)
            assert each.report.records == len(each.records) + each.report.damaged
            assert each.report.messages == sum(record.count for record in each.records)
        else:
            assert set(each.report.defects) <= set(DMARC_DEFECTS)


def test_tls_reports() -> None:
    fuzz(mutated(TLS_SEEDS), tls_report)


def test_dmarc_reports() -> None:
    fuzz(mutated(DMARC_SEEDS), dmarc_report)
