"""Write `docs/metrics.md`: every metric that core and the four plugins declare, as the code has it.

python docs/metrics.py            write the page
python docs/metrics.py --check    exit with 1 when the page is out of date, for continuous integration
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from postward.app import App
from postward.config import from_dict
from postward.metrics.registry import Description

ROOT: Final = Path(__file__).resolve().parents[1]
PAGE: Final = ROOT / "docs" / "metrics.md"
PLUGINS: Final = ("dane", "mtasts", "tlsrpt", "dmarc")

HEAD: Final = """# Metrics
Written by `python docs/metrics.py` from the code; a test fails when it is out of date.

`postward run` answers `GET /metrics` at `web.bind` (127.0.0.1:8460) in the format of Prometheus, or in OpenMetrics for who
asks for it. Without more, only this machine is answered:

```yaml
scrape_configs:
  - job_name: postward
    static_configs: [{targets: ["127.0.0.1:8460"]}]
```

A Prometheus elsewhere needs a token. With one, everybody needs it, and it is answered at `web.public` too, which speaks HTTPS:

```toml
[web]
public = "0.0.0.0:443"
metrics_token = "env:POSTWARD_METRICS_TOKEN"   # at least 16 characters
```

```yaml
  - job_name: postward
    scheme: https
    authorization: {credentials_file: /etc/prometheus/postward.token}
    static_configs: [{targets: ["mx1.example.net"]}]
```

`examples/prometheus/alerts.yml` holds rules worth being woken for, each with what to do (more in `docs/operating.md`), and
`examples/grafana/postward.json` a dashboard.

## How to read them Each process counts by itself and from its own start, so its series carry `worker`, its number: `"0"`, or
up to `delivery.workers` less one. Sum over it: `sum without (worker) (rate(postward_recipients_total[5m]))`. One page shows
all workers; those other than the first write their figures down every five seconds, and `postward_worker_age_seconds` says
how old they are. What is the same for the whole machine, marked *node*, carries no `worker`; it is read from queue and outbox
at most every ten seconds.

A label's values are bounded: behind 500 series of one metric, all others count as `other`.

## Of core
"""

PLUGIN_API: Final = """
## For authors of plugins
`core.metrics` declares counters, gauges and histograms under the name of your plugin:

```python
class Greylist:
    def __init__(self, config: None, core: postward.Core) -> None:
        self._held = core.metrics.counter("held", "Messages that had to wait, by reason.", ("reason",))

    @postward.hookimpl
    async def judge(self, message, results):
        self._held.inc("unknown-sender")
```

makes `postward_greylist_held_total{worker="0",reason="unknown-sender"}`. Declare in `__init__`, so that a metric is there
before anything has happened. `counter.inc(*labels, by=1)`, `gauge.set(value, *labels)` and `histogram.observe(value,
*labels)` take a few tenths of a microsecond and fail only for a wrong number of labels; call them from the event loop's
thread. `read_by(function)` asks a function for all series when the page is asked for. `of_node=True` is for what every
process would say alike. Use labels for few values: a domain is no label.
"""


def declared() -> list[Description]:
    """Everything that the code declares, by name."""
    with tempfile.TemporaryDirectory() as folder:
        core = {"hostname": "mx.example.net", "data_dir": folder}
        app = App(from_dict({"plugins": list(PLUGINS), "core": core, "dns": {"nameservers": ["127.0.0.1:53"]}}))
        app.plugins.load(app.config, app.core_for)
        return app.registry.descriptions


def page() -> str:
    """The page as it has to be."""
    everything = declared()
    of_plugins = {name: [one for one in everything if one.name.startswith(f"postward_{name}_")] for name in PLUGINS}
    own = [one for one in everything if not any(one in group for group in of_plugins.values())]
    parts = [HEAD, *_table(own)]
    for name, group in of_plugins.items():
        if group:
            parts += [f"\n## Of the plugin {name}\n", *_table(group)]
    return "".join([*parts, PLUGIN_API])


def _table(group: list[Description]) -> Iterator[str]:
    yield "| name | kind | labels | meaning |\n|---|---|---|---|\n"
    for one in group:
        labels = ", ".join(f"`{label}`" for label in one.labels)
        kind = f"{one.kind}, *node*" if one.of_node else one.kind
        yield f"| `{one.name}` | {kind} | {labels} | {one.help} |\n"


def main(arguments: list[str]) -> int:
    """Write or check; the exit code."""
    wanted = page()
    if "--check" in arguments:
        if not PAGE.exists() or PAGE.read_text() != wanted:
            print(f"{PAGE} is out of date: run python docs/metrics.py", file=sys.stderr)  # noqa: T201 - a command
            return 1
        return 0
    PAGE.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
