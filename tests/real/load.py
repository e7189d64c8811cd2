"""Real model outputs as items, and the people who once judged them as reviewers.

Reads the development data beside this repository in place; nothing of it is copied. By hand:

    python -m tests.real.load                                  into this machine's instance, all sets
    python -m tests.real.load --set tau_airline --count 100    only some
    python -m tests.real.load --set mlqe_pe --project          the project's file, for `projects apply`
    python -m tests.real.load --set mlqe_pe --url http://127.0.0.1:8000 --key rq_…     through the API

The first form takes the same environment as the instance (REVIEWQUEUE_DATA_DIR, DATABASE_URL, …).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DATA = Path(__file__).parents[3] / "shared" / "data"
TOTAL = 1_000
BATCH = 100
Row = dict[str, Any]


@dataclass(frozen=True)
class Said:
    """What the human of the data said of an output, as a reviewer would say it here."""

    verdict: str
    output: Any = None
    reason: str | None = None
    cause: str | None = None


@dataclass(frozen=True)
class RealSet:
    """One folder of the data as a project: its file, its rows as items and as verdicts."""

    name: str
    file: str
    kind: str
    title: str
    guidelines: str
    policy: str
    item: Callable[[Row], dict[str, Any]]
    schema: Callable[[], dict[str, Any] | None] = lambda: None
    reason: str = "wrong fact"

    @property
    def project(self) -> str:
        """The name of its project."""
        return self.name.replace("_", "-")

    def rows(self, count: int) -> list[Row]:
        """Up to `count` rows, spread over the whole file; FileNotFoundError when the data is not here."""
        rows = [json.loads(line) for line in (DATA / self.name / self.file).read_text("utf-8").splitlines()]
        return rows[:: max(1, len(rows) // count)][:count]

    def toml(self) -> str:
        """The project's file."""
        schema = self.schema()
        lines = [
            f'name = "{self.project}"',
            f'title = "{self.title}"',
            f'kind = "{self.kind}"',
            f"guidelines = {json.dumps(self.guidelines)}",
            f"schema = {_toml(schema)}" if schema else "",
            f"[policy]\n{self.policy}",
        ]
        return "\n".join(lines) + "\n"

    def submission(self, row: Row) -> dict[str, Any]:
        """The row as a backend would submit it."""
        common = {
            "project": self.project,
            "external_id": row["id"],
            "model": row["model"],
            "input": row["input"]["prompt"],
            "metadata": {"dataset": row["dataset"], "group": row["group"]},
        }
        return common | self.item(row)

    def said(self, row: Row) -> Said:
        """The recorded verdict. An edit that changes nothing is an approval."""
        if row["verdict"] == "approve":
            return Said("approve")
        if row["verdict"] == "edit":
            own, corrected = (self._output(row[key]) for key in ("output", "corrected_output"))
            return Said("approve") if corrected == own else Said("edit", corrected, self.reason, "model")
        return Said("reject", None, self.reason, "model")

    def _output(self, text: str) -> Any:
        return json.loads(text) if self.kind == "tool_call" else text


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _translation(row: Row) -> dict[str, Any]:
    return {"output": row["output"], "logprobs": row["original"]["token_logprobs"]}


def _answer(row: Row) -> dict[str, Any]:
    return {"output": row["output"], "confidence": row["confidence"]}


def _expert_answer(row: Row) -> dict[str, Any]:
    passages = [_passage(found["text"]) for found in row["input"]["context"]]
    return {"output": row["output"], "confidence": row["confidence"], "context": passages}


def _passage(text: str) -> dict[str, Any]:
    # "[3] https://… " and, in some systems, the passage itself after it.
    match = re.match(r"(\[\d+\])\s*(https?://\S+)?\s*(.*)", text, re.DOTALL)
    if match is None:
        return {"text": text}
    found = {"title": match[1], "url": match[2], "text": match[3]}
    return {key: part for key, part in found.items() if part}


def _intent(row: Row) -> dict[str, Any]:
    best = dict(row["top3"])
    return {"output": row["output"], "confidence": row["confidence"], "metadata": {"top3": best}}


def _call(row: Row) -> dict[str, Any]:
    said = [
        {"title": message["role"], "text": message["text"] or json.dumps(message.get("tool_calls"))}
        for message in row["input"]["context"]
    ]
    return {"output": json.loads(row["output"]), "confidence": row["confidence"], "context": said}


def _labels() -> dict[str, Any]:
    return {"enum": json.loads((DATA / "banking77" / "labels.json").read_text("utf-8"))}


def _tools() -> dict[str, Any]:
    booking = ["flights", "baggages", "passengers"]
    names = ["book_reservation", "cancel_reservation", *(f"update_reservation_{part}" for part in booking)]
    return {
        "type": "object",
        "properties": {"name": {"enum": [*names, "send_certificate"]}, "arguments": {"type": "object"}},
        "required": ["name", "arguments"],
    }


_SENIORS = """[[policy.rules]]
name = "money"
when = [{field = "output.name", op = "eq", value = "send_certificate"}]
route = "review"
queue = "seniors"
"""


def _policy(below: float) -> str:
    return f"confidence_below = {below}\ncontrol_rate = 0.10\nundo_seconds = 0\n"


SETS: dict[str, RealSet] = {
    one.name: one
    for one in (
        RealSet(
            "mlqe_pe", "items.jsonl", "text", "Translations from Romanian",
            "The English must say what the Romanian says, and read well.", _policy(0.8), _translation,
        ),
        RealSet(
            "halueval_general", "items.jsonl", "text", "Answers to open questions",
            "Reject an answer that states something untrue or that nobody can check.", _policy(0.9), _answer,
        ),
        RealSet(
            "evouna_nq", "items.jsonl", "text", "Short answers",
            "Is this the answer to the question? More words do no harm.", _policy(0.8), _answer,
        ),
        RealSet(
            "expertqa", "items.jsonl", "markdown", "Answers with passages",
            "Every claim must be right. Rewrite what is not, and drop what nothing supports.",
            _policy(0.83), _expert_answer,
        ),
        RealSet(
            "banking77", "outputs.jsonl", "label", "What the customer wants",
            "Choose the one intent that a colleague at the bank would choose.", _policy(0.9), _intent,
            schema=_labels,
        ),
        RealSet(
            "tau_airline", "items.jsonl", "tool_call", "Changes to bookings",
            "May this call be made, with these arguments, after this conversation?",
            _policy(0.99) + _SENIORS, _call, schema=_tools,
        ),
    )
}  # fmt: skip


def require(chosen: RealSet) -> None:
    """Skip the running test when the set's data is not here; with CI=true fail it."""
    require_folder(chosen.name)


def require_folder(name: str) -> None:
    """Skip the running test when this folder of the data is not here; with CI=true fail it."""
    import pytest

    if not (DATA / name).is_dir():
        reason = f"the development data (../shared/data/{name}) is not here"
        if os.environ.get("CI") == "true":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


def shares(total: int) -> dict[str, int]:
    """How many rows of each set make up `total`."""
    return dict.fromkeys(SETS, total // len(SETS))


def through_the_api(chosen: RealSet, rows: list[Row], url: str, key: str) -> Iterator[dict[str, Any]]:
    """Submit the rows in batches; the project must be there and the key its backend's. Gives the results."""
    import httpx

    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=60) as http:
        for start in range(0, len(rows), BATCH):
            items = [chosen.submission(row) for row in rows[start : start + BATCH]]
            yield from (
                http.post("/api/v1/items/batch", json={"items": items}).raise_for_status().json()["results"]
            )


def through_the_verbs(chosen: RealSet, rows: list[Row]) -> int:
    """Make the project and its backend in this machine's instance when they are not there, and submit."""
    from reviewqueue.intake.submit import submit
    from reviewqueue.people.access import SCOPES, SYSTEM, backend_actor
    from reviewqueue.people.backends import add_backend, backend_named
    from reviewqueue.routing.projects import apply

    project = apply(chosen.toml(), SYSTEM).project
    backend = backend_named(f"{chosen.project}-data")
    if backend is None:
        backend = add_backend(SYSTEM, f"{chosen.project}-data", chosen.project).backend
    actor = backend_actor(backend.id, project.id, SCOPES)
    return sum(not submit(chosen.submission(row), actor).replayed for row in rows)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.real.load", description=__doc__.split("\n")[0])
    parser.add_argument("--set", choices=SETS, help="this set alone")
    parser.add_argument("--count", type=int, default=TOTAL, help="items in all")
    parser.add_argument("--project", action="store_true", help="print the project's file")
    parser.add_argument("--url")
    parser.add_argument("--key")
    given = parser.parse_args(arguments)
    wanted = {given.set: given.count} if given.set else shares(given.count)
    if given.project:
        print(SETS[given.set or "mlqe_pe"].toml(), end="")
        return 0
    if bool(given.url) != bool(given.key) or (given.url and not given.set):
        parser.error("--url needs --key and --set: a key belongs to one project")
    if not DATA.is_dir():
        print(f"The development data is not at {DATA}.", file=sys.stderr)
        return 1
    if given.url:
        results = list(
            through_the_api(SETS[given.set], SETS[given.set].rows(given.count), given.url, given.key)
        )
        refused = [result for result in results if "error" in result]
        print(f"{given.set}: {len(results) - len(refused)} accepted, {len(refused)} refused")
        return 1 if refused else 0
    from reviewqueue.running import startup

    with startup.open_base(startup.load()).app_context():
        for name, count in wanted.items():
            print(f"{name}: {through_the_verbs(SETS[name], SETS[name].rows(count))} new items")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
