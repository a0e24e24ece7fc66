"""What the page about sending TLS reports says is what the program has: keys, commands, log lines."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from postward.cli import COMMANDS, main
from postward.config import ReportsConfig
from postward_tlsrpt.plugin import TlsRpt

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/tlsrpt-sending.md").read_text()
SENDING = ("send", "report_success", "organization", "contact", "pkix_details", "host_record")


@pytest.mark.parametrize("key", SENDING)
def test_every_key_of_sending_is_explained_and_there(key: str) -> None:
    assert key in TlsRpt.Config.model_fields
    assert re.search(rf"^\| `{key}` \|", PAGE, re.MULTILINE)


def test_every_key_of_reports_is_explained() -> None:
    assert all(f"| `{key}` |" in PAGE for key in ReportsConfig.model_fields)


def test_every_command_on_the_page_exists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "postward.toml"
    config.write_text(f'plugins = ["tlsrpt"]\n[core]\nhostname = "mx1.example.net"\ndata_dir = "{tmp_path}/data"\n')
    lines = re.findall(r"^ {4}postward ((?:[a-z]+ )+)", PAGE, re.MULTILINE)
    assert len(lines) >= 8
    for line in lines:
        words = line.split()
        assert words[0] in {*COMMANDS, "tlsrpt"}
        verbs = words[: 3 if "suppress" in words else 2]
        assert main([*verbs, "--help", "--config", str(config)]) == 0, verbs
    capsys.readouterr()


def test_every_log_line_on_the_page_is_one_of_the_program() -> None:
    source = "".join(file.read_text() for file in (ROOT / "core/src/postward/reports").glob("*.py"))
    for event in re.findall(r"`(report-[a-z]+)`", PAGE):
        written = f'"{event}"' in source or event.removeprefix("report-") in ("delivered", "failed", "suppressed")
        assert written, event
