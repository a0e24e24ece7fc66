"""How long a thousand tests of a plugin author take: `python benchmarks/harness.py [COUNT]`.

Each has the four plugins that ship, a delivery over TLS, and the end of a day with its report; pytest's own cost is in it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

TEST = """
import pytest

@pytest.mark.parametrize("number", range({count}))
async def test_a_day(harness, number):
    for name, options in (("dane", {{}}), ("mtasts", {{}}), ("tlsrpt", {{"organization": "x"}}), ("dmarc", {{}})):
        harness.use(name, **options)
    harness.domain("example.test")
    harness.zone("_smtp._tls.example.test", '@ TXT "v=TLSRPTv1; rua=mailto:tls@example.test"\\\\n')
    assert (await harness.deliver("you@example.test")).delivered
    assert len(await harness.next_day()) == 1
"""


def main(count: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "test_days.py").write_text(TEST.format(count=count))
        words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "postward.testing.pytest_plugin", folder]
        begun = time.perf_counter()
        code = subprocess.run(words, cwd=folder, check=False).returncode
    print(f"{count} tests in {time.perf_counter() - begun:.1f} s; the aim is 1000 in less than 60 s")
    return code


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000))
