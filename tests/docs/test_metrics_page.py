"""The page of metrics is what the code declares, and rules and dashboard speak of nothing else."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from interop import need
from postward.cli import COMMANDS
from postward.metrics.exposition import render
from postward.metrics.registry import Counter, Gauge, Histogram, Registry

ROOT = Path(__file__).parents[2]
RULES = ROOT / "examples/prometheus/alerts.yml"
DASHBOARD = ROOT / "examples/grafana/postward.json"
# What Prometheus itself makes.
FREE = {"up": {"job", "instance"}}
TARGET = {"instance", "job"}
_SELECTOR = re.compile(r"\b([a-z_]+)\{([^}]*)\}|\b(postward_[a-z_]+)\b")
_LABEL = re.compile(r'([a-z_]+)\s*(?:=~|!~|!=|=)\s*"')


@pytest.fixture(scope="module")
def metrics() -> ModuleType:
    spec = importlib.util.spec_from_file_location("postward_metrics_page", ROOT / "docs" / "metrics.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def series(metrics: ModuleType) -> dict[str, set[str]]:
    """The labels of every series that can be on the page, by name."""
    found = {name: set(labels) for name, labels in FREE.items()}
    for one in metrics.declared():
        labels = {*one.labels, *TARGET} | (set() if one.of_node else {"worker"})
        if one.kind == "histogram":
            found |= {f"{one.name}_bucket": {*labels, "le"}, f"{one.name}_sum": labels, f"{one.name}_count": labels}
        else:
            found[one.name] = labels
    return found


def wrong(expression: str, series: dict[str, set[str]]) -> list[str]:
    """What an expression names that there is not: series, labels in braces, labels behind `by`."""
    found: list[str] = []
    named: set[str] = set()
    for match in _SELECTOR.finditer(expression):
        name = match[1] or match[3]
        if name not in series:
            found.append(f"no series {name}")
            continue
        named |= series[name]
        found += [f"{name} has no label {label}" for label in _LABEL.findall(match[2] or "") if label not in series[name]]
    for group in re.findall(r"\bby \(([^)]*)\)", expression):
        found += [f"no label {label.strip()}" for label in group.split(",") if label.strip() not in named]
    return found if named else [*found, "names no series"]


def expressions_of_rules() -> list[str]:
    text = RULES.read_text()
    return [match[1] or match[2] for match in re.finditer(r"^ +expr: (?:\|\n((?: {10,}.*\n)+)|(.*)\n)", text, re.MULTILINE)]


def expressions_of_panels() -> Iterator[tuple[str, str, str]]:
    board = json.loads(DASHBOARD.read_text())
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"], target["legendFormat"]
    for each in board["annotations"]["list"]:
        yield each["name"], each["expr"], ""


def test_the_page_is_up_to_date(metrics: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert metrics.main(["--check"]) == 0, capsys.readouterr().err


def test_everything_on_the_page_says_what_it_is(metrics: ModuleType) -> None:
    for one in metrics.declared():
        assert one.help.endswith("."), one.name
        assert len(one.help) > 15, one.name
        assert one.kind != "counter" or one.name.endswith("_total"), one.name


def test_rules_name_only_what_there_is(series: dict[str, set[str]]) -> None:
    expressions = expressions_of_rules()
    assert len(expressions) == RULES.read_text().count("- alert:") >= 10
    assert [(expression, found) for expression in expressions if (found := wrong(expression, series))] == []


def test_the_dashboard_names_only_what_there_is(series: dict[str, set[str]]) -> None:
    panels = list(expressions_of_panels())
    assert len(panels) > 20
    assert [(title, found) for title, expression, _ in panels if (found := wrong(expression, series))] == []
    # A legend shows labels that the expression keeps.
    for title, expression, legend in panels:
        for label in re.findall(r"\{\{(\w+)\}\}", legend):
            assert re.search(rf"by \([^)]*\b{label}\b", expression), (title, label)


def test_no_metric_of_core_is_forgotten_on_the_dashboard(series: dict[str, set[str]]) -> None:
    shown = DASHBOARD.read_text()
    left = {name for name in series if name not in shown and not name.endswith(("_sum", "_count")) and name not in FREE}
    assert left <= {
        "postward_delivery_destinations",
        "postward_hook_slowest_seconds",
        "postward_journal_failures",
        "postward_queue_bytes",
        "postward_worker_age_seconds",
    } | {name for name in left if name.startswith("postward_dmarc_")}


def test_wrong_names_would_be_found(series: dict[str, set[str]]) -> None:
    assert wrong('rate(postward_recipient_total{outcome="x"}[5m])', series) == [
        "no series postward_recipient_total",
        "names no series",
    ]
    assert wrong('postward_recipients_total{result="x"}', series) == ["postward_recipients_total has no label result"]
    assert wrong("sum by (policy) (postward_recipients_total)", series) == ["no label policy"]


def test_rules_name_commands_that_there_are() -> None:
    named = set(re.findall(r"`postward ([a-z]+)", RULES.read_text()))
    assert {"status", "queue", "logs"} <= named <= {*COMMANDS, "logs", "tlsrpt", "dane", "mtasts", "dmarc"}


# --- as Prometheus sees it ---


def promtool(*arguments: str, text: str = "") -> str:
    done = subprocess.run([need("promtool"), *arguments], input=text, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.interop
def test_promtool_takes_the_rules() -> None:
    promtool("check", "rules", str(RULES))


@pytest.mark.interop
def test_promtool_takes_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": expression.replace("$instance", ".*")}
        for number, (_, expression, _) in enumerate(expressions_of_panels())
    ]
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    promtool("check", "rules", str(file))


@pytest.mark.interop
def test_promtool_takes_the_page(metrics: ModuleType) -> None:
    registry = Registry()
    for one in metrics.declared():
        metric: Any = {"counter": Counter, "gauge": Gauge, "histogram": Histogram}[one.kind](one)
        labels = tuple("x" for _ in one.labels)
        if one.kind == "histogram":
            metric.observe(1, *labels)
        elif one.kind == "gauge":
            metric.set(1, *labels)
        else:
            metric.inc(*labels)
        registry.add(metric)
    promtool("check", "metrics", text=render({"0": registry.families()})[0].decode())


@pytest.mark.interop
@pytest.mark.parametrize(
    ("alert", "series", "minutes", "labels"),
    [
        (
            "PostwardResolverDoesNotValidate",
            {'postward_resolver_validating{instance="a",worker="0"}': "0x60"},
            30,
            {"worker": "0"},
        ),
        ("PostwardDown", {'up{job="postward",instance="a"}': "0x60"}, 30, {"job": "postward"}),
        (
            "PostwardQueueOld",
            {'postward_queue_oldest_seconds{instance="a"}': "20000x60", 'postward_queue_due{instance="a"}': "1x60"},
            50,
            {},
        ),
        (
            "PostwardDeliveriesFail",
            {
                'postward_recipients_total{instance="a",worker="0",outcome="deferred"}': "0+60x60",
                'postward_recipients_total{instance="a",worker="1",outcome="delivered"}': "0+30x60",
            },
            50,
            {},
        ),
        (
            "PostwardPoliciesFail",
            {
                'postward_tls_sessions_total{instance="a",worker="0",policy="sts",mode="enforce",verdict="failed",'
                'result_type="certificate-expired"}': "0+1x60"
            },
            50,
            {"policy": "sts", "result_type": "certificate-expired"},
        ),
        (
            "PostwardHookFails",
            {'postward_hook_failures_total{instance="a",worker="0",plugin="p",hook="judge"}': "0+2x60"},
            50,
            {"plugin": "p", "hook": "judge"},
        ),
    ],
)
def test_an_alert_fires_when_it_should_and_not_before(
    tmp_path: Path, alert: str, series: dict[str, str], minutes: int, labels: dict[str, str]
) -> None:
    text = RULES.read_text()
    severity = re.search(rf"alert: {alert}\n(?:.*\n)*? +labels: {{severity: (\w+)}}", text)
    assert severity is not None
    # What an alert says is compared to the letter, and is not of interest here.
    (tmp_path / "rules.yml").write_text(re.sub(r" +annotations:\n(?: {10,}.*\n)+", "", text))
    fired = {"exp_labels": {"severity": severity[1], "instance": "a", **labels}}
    times = [{"eval_time": "1m", "alertname": alert}, {"eval_time": f"{minutes}m", "alertname": alert, "exp_alerts": [fired]}]
    test = {
        "rule_files": ["rules.yml"],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "alert_rule_test": times,
            }
        ],
    }
    file = tmp_path / "test.yml"
    file.write_text(json.dumps(test))
    promtool("test", "rules", str(file))
