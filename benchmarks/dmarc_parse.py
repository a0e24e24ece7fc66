"""How fast DMARC aggregate reports are read by `postward_dmarc`, and by parsedmarc if its interpreter is given.

Run: python benchmarks/dmarc_parse.py [--parsedmarc /path/to/python] [--runs N]

The same reports for both, in the same run, one process each, alternating; medians of the runs. There are files of 2,000 and of
100,000 records, and small report mails with three records each, all read from bytes. parsedmarc is told to be offline. At
the end a file of 1,000,000 records is read by `postward dmarc parse --json` in a process of its own, for its memory.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
from email.message import EmailMessage
from pathlib import Path
from typing import Any

HEAD = """<?xml version="1.0" encoding="UTF-8"?>
<feedback>
  <report_metadata><org_name>reporter.example</org_name><email>dmarc@reporter.example</email><report_id>{number}</report_id>
    <date_range><begin>1767225600</begin><end>1767311999</end></date_range></report_metadata>
  <policy_published><domain>example.com</domain><adkim>r</adkim><aspf>r</aspf><p>reject</p><sp>reject</sp><pct>100</pct>
  </policy_published>
"""
RECORD = """  <record>
    <row><source_ip>192.0.{high}.{low}</source_ip><count>{count}</count>
      <policy_evaluated><disposition>none</disposition><dkim>pass</dkim><spf>fail</spf></policy_evaluated></row>
    <identifiers><header_from>example.com</header_from></identifiers>
    <auth_results>
      <dkim><domain>example.com</domain><result>pass</result><selector>s1</selector></dkim>
      <spf><domain>bounce.example.com</domain><result>pass</result></spf>
    </auth_results>
  </record>
"""
OURS = """
import sys, time
from pathlib import Path
from postward_dmarc.reading.message import AggregateReading, reports_in
files = [path.read_bytes() for path in sorted(Path(sys.argv[1]).iterdir())]
reports_in(files[0])
begin = time.process_time()
records = 0
for content in files:
    [found] = reports_in(content)
    assert isinstance(found, AggregateReading)
    records += len(found.records)
print(time.process_time() - begin, records)
"""
THEIRS = """
import logging, sys, time
logging.disable(logging.CRITICAL)
from pathlib import Path
import parsedmarc
files = [path.read_bytes() for path in sorted(Path(sys.argv[1]).iterdir())]
def read(content):
    if content.startswith(b"<?xml"):
        return parsedmarc.parse_aggregate_report_xml(content.decode(), offline=True)
    return parsedmarc.parse_report_email(content, offline=True)["report"]
read(files[0])
begin = time.process_time()
records = 0
for content in files:
    records += len(read(content)["records"])
print(time.process_time() - begin, records)
"""


def report(number: int, records: int) -> bytes:
    """A report of so many records."""
    rows = (RECORD.format(high=at // 250 % 250, low=at % 250 + 1, count=at % 7 + 1) for at in range(records))
    return "".join([HEAD.format(number=number), *rows, "</feedback>\n"]).encode()


def mail(number: int) -> bytes:
    """A small report mail."""
    message = EmailMessage()
    message["From"], message["To"] = "dmarc@reporter.example", "reports@example.com"
    message["Subject"] = f"Report Domain: example.com Submitter: reporter.example Report-ID: <{number}>"
    message.set_content("An aggregate report.")
    name = f"reporter.example!example.com!1767225600!1767311999!{number}.xml.gz"
    message.add_attachment(gzip.compress(report(number, 3)), maintype="application", subtype="gzip", filename=name)
    return message.as_bytes()


def measure(interpreter: str, program: str, directory: Path) -> tuple[float, int]:
    """CPU seconds and records of one process."""
    done = subprocess.run([interpreter, "-c", program, str(directory)], capture_output=True, text=True, check=True)
    seconds, records = done.stdout.split()
    return float(seconds), int(records)


def compare(name: str, files: list[bytes], options: argparse.Namespace, *, per_mail: bool) -> None:
    """Measure one kind of input and print it."""
    with tempfile.TemporaryDirectory() as place:
        for number, content in enumerate(files):
            (Path(place) / f"{number:06}").write_bytes(content)
        programs = {"ours": (sys.executable, OURS)}
        if options.parsedmarc:
            programs["parsedmarc"] = (options.parsedmarc, THEIRS)
        seconds: dict[str, list[float]] = {who: [] for who in programs}
        counts = set()
        for _ in range(options.runs):
            for who, (interpreter, program) in programs.items():
                took, records = measure(interpreter, program, Path(place))
                seconds[who].append(took)
                counts.add(records)
        [records] = counts
        units = len(files) if per_mail else records
        rates = {who: units / statistics.median(each) for who, each in seconds.items()}
        said = ", ".join(f"{who} {rate:,.0f}" for who, rate in rates.items())
        ratio = f"; ratio {rates['ours'] / rates['parsedmarc']:.1f}" if "parsedmarc" in rates else ""
        print(f"{name}: {said} {'mails' if per_mail else 'records'} a second of CPU{ratio}", flush=True)


def large(records: int) -> None:
    """Read one very large file with the command."""
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "report.xml.gz"
        with gzip.open(file, "wb", 1) as stream:
            stream.write(HEAD.format(number=1).encode())
            for start in range(0, records, 10_000):
                rows = (RECORD.format(high=at // 250 % 250, low=at % 250 + 1, count=1) for at in range(start, start + 10_000))
                stream.write("".join(rows).encode())
            stream.write(b"</feedback>\n")
        command = [sys.executable, "-m", "postward", "dmarc", "parse", "--json", str(file)]
        environment = {**os.environ, "POSTWARD_CONFIG": str(_config(Path(place)))}
        process = subprocess.Popen([*command, "--config", environment["POSTWARD_CONFIG"]], stdout=subprocess.PIPE)
        assert process.stdout is not None
        found: dict[str, Any] = json.loads(process.stdout.read())
        _, status, usage = os.wait4(process.pid, 0)
        assert status == 0
        assert found["records"] == records
        print(f"{records:,} records: {usage.ru_utime + usage.ru_stime:.0f} s CPU, RSS at most {usage.ru_maxrss / 1024:.0f} MiB")


def _config(directory: Path) -> Path:
    file = directory / "postward.toml"
    file.write_text(f'plugins = ["dmarc"]\n[core]\nhostname = "mx.example.com"\ndata_dir = "{directory}/data"\n')
    return file


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parsedmarc", help="an interpreter that has parsedmarc")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--large", type=int, default=1_000_000)
    options = parser.parse_args()
    compare("a file of 2,000 records", [report(1, 2000)], options, per_mail=False)
    compare("a file of 100,000 records", [report(1, 100_000)], options, per_mail=False)
    compare("mails of 3 records", [mail(number) for number in range(500)], options, per_mail=True)
    large(options.large)


if __name__ == "__main__":
    main()
