"""The JSON twins keep what their description says, whatever they are asked; schemathesis thinks of what to ask."""

from __future__ import annotations

import base64
import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable

from web_service import SECRET, Served, serving_pages

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    schemathesis = pytest.importorskip("schemathesis")

pytestmark = [pytest.mark.loopback, pytest.mark.interop, pytest.mark.filterwarnings("default")]
EXAMPLES = 25
BASIC = {"authorization": "Basic " + base64.b64encode(f"eve:{SECRET}".encode()).decode()}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving_pages(tmp_path_factory.mktemp("api")) as service:
        yield service


def test_every_answer_is_as_described(served: Served) -> None:
    from schemathesis.specs.openapi import checks

    kept = [
        schemathesis.checks.not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_schema_conformance,
        checks.unsupported_method,
    ]
    schema = schemathesis.openapi.from_url(f"{served.url}/api/v1/openapi.json", headers=BASIC)
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) >= 10
    answered: set[int] = set()

    def ask(case: Any) -> None:
        answered.add(case.call_and_validate(headers=BASIC, checks=kept).status_code)

    for operation in operations:
        for mode in schemathesis.GenerationMode:
            examples = operation.as_strategy(generation_mode=mode)
            limits = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
            with contextlib.suppress(Unsatisfiable):  # a page without parameters has nothing to be asked wrongly
                limits(given(case=examples)(ask))()
    assert {200, 400} <= answered
