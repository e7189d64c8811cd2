"""The description against the API itself, by schemathesis."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from flask import Flask
from jsonschema import Draft202012Validator
from schemathesis import engine
from schemathesis.engine import Status, events

from reviewqueue.intake.openapi import document, operations
from tests.make import Make

CONFIG = """
seed = 4711
max-failures = 20
[generation]
max-examples = {examples}
[phases.stateful]
max-steps = 4
"""


@pytest.fixture
def environ() -> dict[str, str]:
    """The rate is not what is tested here."""
    return {"REVIEWQUEUE_INTAKE_RATE": "0"}


@pytest.fixture
def key(app: Flask, make: Make) -> str:
    """The API key of a backend that has items already."""
    project = make.project("support-replies", "json")
    for _ in range(3):
        make.item(project)
    text: str = make.backend(project).api_key
    return text


@pytest.fixture
def described(key: str, live: str, database: str) -> Any:
    """The API as schemathesis sees it."""
    examples = 8 if database.startswith("sqlite") else 4
    config = schemathesis.Config.from_str(CONFIG.format(examples=examples))
    schema = schemathesis.openapi.from_url(f"{live}/api/v1/openapi.json", config=config)
    schema.config.update(headers={"Authorization": f"Bearer {key}"}, base_url=live)
    schema.hook("map_body")(fits_the_project)
    # A webhook goes the way of an item once its signature is right, which no database has a part in.
    return schema if database.startswith("sqlite") else schema.exclude(path="/webhooks/{backend}")


def fits_the_project(_context: Any, body: Any) -> Any:
    """What a project asks of an output no description of the API can say: here an object or a list."""
    if isinstance(body, dict) and not isinstance(body.get("output", []), dict | list):
        return body | {"output": [body["output"]]}
    return body


def failures(recorder: Any) -> Iterator[str]:
    """What went wrong in one scenario, with the answer it got."""
    for case_id, found in recorder.checks.items():
        answer = recorder.interactions[case_id].response
        body = answer.content.decode("utf-8", "replace") if answer is not None else ""
        for check in found:
            if check.status == Status.FAILURE:
                yield f"{recorder.label}: {check.name}: {check.failure_info.failure}\n{body[:1000]}"


def test_schemathesis_finds_nothing(described: Any) -> None:
    wrong: list[str] = []
    phases: set[str] = set()
    calls = 0
    for event in engine.from_schema(described).execute():
        if isinstance(event, events.ScenarioFinished):
            calls += len(event.recorder.interactions)
            phases.add(event.phase.name)
            wrong += failures(event.recorder)
        elif isinstance(event, events.NonFatalError | events.FatalError):
            wrong.append(str(event.info if isinstance(event, events.NonFatalError) else event.exception))
    assert not wrong, "\n\n".join(wrong)
    assert {"COVERAGE", "FUZZING", "STATEFUL_TESTING"} <= phases
    assert calls > 500


def test_the_description_names_every_route(app: Flask) -> None:
    told = {(operation.method.upper(), operation.path) for operation in operations()}
    for rule in app.url_map.iter_rules():
        if rule.endpoint.startswith(("intake_api", "examples_api")):
            path = rule.rule.replace("string(length=30):", "").replace("int:", "")
            path = path.replace("<", "{").replace(">", "}")
            known = {(method, path) for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}}
            open_to_all = path in ("/api/v1/openapi.json", "/api/docs")
            assert open_to_all or known <= told, path


def test_the_schemas_are_schemas_and_every_reference_leads_somewhere(base: Flask) -> None:
    whole = document()
    for schema in whole["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    text = json.dumps(whole)
    assert "x-schema" not in text
    for name in set(re.findall(r"#/components/schemas/(\w+)", text)):
        assert name in whole["components"]["schemas"]


def test_what_only_people_are_told_is_told(base: Flask) -> None:
    whole = document()
    assert "Idempotency-Key" in whole["paths"]["/api/v1/items"]["post"]["description"]
    assert "`wait`" in whole["paths"]["/api/v1/items/{item_id}"]["get"]["description"]
