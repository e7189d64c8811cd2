"""How the time of what people and backends do grows with what is stored: 1,000 to 1,000,000 items.

    python -m bench.scale [--sizes 1000,10000,100000,1000000] [--database URL] [--write]

For each size N a fresh database gets N items that wait, N/2 that were decided with their callbacks, examples
and two ledger entries each. Requests go through the whole application by its test client, one at a time.
`--write` puts the table and the plot into docs/.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.plot import plot

ROOT = Path(__file__).resolve().parent.parent
TURNS = 60
CPU = "SCALE_CPU"  # in the environment: count CPU time, where others keep the machine busy
clock = time.process_time if os.environ.get(CPU) else time.perf_counter
# key → what it is, unit, target at every size
MEASURES: dict[str, tuple[str, str, float | None]] = {
    "claim_p50": ("claim next, median", "ms", 5),
    "claim_p95": ("claim next, p95", "ms", 15),
    "decide_p50": ("decide, median", "ms", 5),
    "decide_p95": ("decide, p95", "ms", 15),
    "list_p95": ("list of a queue, p95", "ms", None),
    "desk_p95": ("desk, p95", "ms", None),
    "search_p95": ("examples search, p95", "ms", 30),
    "verify_us": ("ledger verify, CPU per entry", "µs", 60),
    "verify_mib": ("ledger verify, memory", "MiB", 256),
    "export_us": ("export of items, CPU per item", "µs", None),
    "export_mib": ("export of items, memory", "MiB", None),
}


def _times(turn: Callable[[int], Any], turns: int = TURNS) -> list[float]:
    """How many milliseconds each turn took, sorted; the first two warm caches."""
    took = []
    for number in range(-2, turns):
        began = clock()
        turn(number)
        if number >= 0:
            took.append((clock() - began) * 1000)
    return sorted(took)


def _spread(name: str, took: list[float]) -> dict[str, float]:
    return {f"{name}_p50": took[len(took) // 2], f"{name}_p95": took[int(len(took) * 0.95)]}


def _memory(*words: str) -> float:
    """The most MiB that a command of ours had; it must succeed."""
    most = 0
    with open(os.devnull, "wb") as nowhere:
        child = subprocess.Popen([sys.executable, "-m", "reviewqueue", *words], cwd=ROOT, stdout=nowhere)
        # Not from its resource usage: that begins with what its parent had.
        while child.poll() is None:
            found = re.search(r"VmHWM:\s+(\d+) kB", _status(child.pid))
            most = max(most, int(found[1]) if found else 0)
            time.sleep(0.02)
    if child.returncode:
        raise SystemExit(f"{' '.join(words)} failed")
    return most / 1024


def _status(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return ""


def one(size: int) -> dict[str, float]:
    """All measures at one size, on the empty database of the environment."""
    from bench import fill
    from reviewqueue import create_app, schema
    from reviewqueue.config import Settings
    from tests.make import Make

    app = create_app(Settings.load(os.environ))
    with app.app_context():
        schema.migrate()
        make = Make()
        project = make.project()
        key = make.backend(project).api_key
        where = fill.place(project.name, make.person("ada").id, make.person("cleo").id)
        done, began = size // 2, time.monotonic()
        fill.items(where, 1, done, "decided")
        fill.decided(where, 1, done)
        fill.examples(where, 1, done)
        fill.items(where, done + 1, done + size)
        fill.waiting(where, done + 1, done + size)
        entries = fill.ledger(where, 1, done)
        fill.analyse()
        found: dict[str, float] = {"filled_seconds": time.monotonic() - began, "entries": entries}
        link = make.sign_in_path(make.people["ada"])
        found |= _long(entries, done + size)
    return found | _requests(app, link, key, done)


def _long(entries: int, items: int) -> dict[str, float]:
    """What works through everything: CPU here, memory in a process of its own."""
    from reviewqueue.db import db
    from reviewqueue.intake.bulk import export_lines
    from reviewqueue.ledger.verify import verify
    from reviewqueue.people.access import SYSTEM

    began = time.process_time()
    report = verify()
    verified = time.process_time()
    assert report.ok, report.problem
    assert sum(1 for _ in export_lines(SYSTEM, "support-replies")) == items
    exported = time.process_time()
    db.session.rollback()
    return {
        "verify_us": (verified - began) / entries * 1e6,
        "export_us": (exported - verified) / items * 1e6,
        "verify_mib": _memory("ledger", "verify"),
        "export_mib": _memory("items", "export", "--project", "support-replies"),
    }


def _requests(app: Any, link: str, key: str, done: int) -> dict[str, float]:
    from bench import fill
    from tests.conftest import Visitor
    from tests.desk.test_claim_pages import form_of

    app.test_client_class = Visitor
    ada, backend, dice = app.test_client(), app.test_client(), random.Random(7)
    if ada.get(link).status_code == 200:  # a link that asks before it is used
        ada.send(link)
    queue, claims = "/queues/support-replies/main", []
    token = ada.csrf("/")

    def claim(_: int) -> None:
        answer = ada.post(f"{queue}/claims", data={"csrf_token": token})
        assert answer.status_code == 303, answer.text
        claims.append(answer.location)

    def ask(_: int) -> None:
        number = dice.randrange(1, done + 1)
        asked = fill.INPUT.format(i=number, j=dice.randrange(997), k=dice.randrange(1, 30), word="my shop")
        path = "/api/v1/projects/support-replies/examples/search"
        answer = backend.post(path, json={"input": asked}, headers={"Authorization": f"Bearer {key}"})
        assert answer.status_code == 200, answer.text

    claimed, decided = [], []
    for _ in range(TURNS):
        claimed += _timed(claim)
        address = claims.pop()
        form = {**form_of(ada.get(address).text), "verdict": "approve"}
        decided += _timed(lambda _, address=address, form=form: ada.post(f"{address}/decision", data=form))
        for other in _held(ada):
            ada.post(f"{other}/release", data={"csrf_token": token})
    return {
        **_spread("claim", sorted(claimed[3:])),
        **_spread("decide", sorted(decided[3:])),
        **_spread("list", _times(lambda _: ada.get(queue))),
        **_spread("desk", _times(lambda _: ada.get("/"))),
        **_spread("search", _times(ask)),
    }


def _held(person: Any) -> list[str]:
    """The claims the person holds: deciding takes the next one, which is not asked for here."""
    return sorted(set(re.findall(r'href="(/claims/[^"/]+)"', person.get("/").text)))


def _timed(turn: Callable[[int], Any]) -> list[float]:
    began = clock()
    turn(0)
    return [(clock() - began) * 1000]


def _alone(size: int, database: str | None) -> dict[str, float]:
    """`one` in a process and a folder of its own."""
    from reviewqueue.config import create_keys

    with tempfile.TemporaryDirectory(prefix="reviewqueue-scale-") as folder:
        environ = os.environ | {
            "REVIEWQUEUE_ENV": "test", "REVIEWQUEUE_DATA_DIR": folder, "REVIEWQUEUE_INTAKE_RATE": "0",
            "REDIS_URL": f"unix://{folder}/none.sock",
        }  # fmt: skip
        create_keys(Path(folder) / "keys")
        if database:
            environ["DATABASE_URL"] = database
        command = [sys.executable, "-m", "bench.scale", "--one", str(size)]
        done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr[-4000:])
        found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return found


def table(figures: dict[int, dict[str, float]]) -> str:
    """The figures as a Markdown table."""
    head = ["", *(f"{size:,}" for size in figures), "target"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for key, (what, unit, target) in MEASURES.items():
        cells = [f"{found[key]:.1f}" if key in found else "" for found in figures.values()]
        lines.append(
            f"| {what} ({unit}) | " + " | ".join([*cells, f"≤ {target:g}" if target else "flat"]) + " |"
        )
    return "\n".join(lines)


def write(figures: dict[int, dict[str, float]], database: str, state: str) -> None:
    """Put table and plot into docs/performance.md and docs/images/."""
    page = ROOT / "docs" / "performance.md"
    begin, end = f"<!-- scale {database} -->", f"<!-- end scale {database} -->"
    said = page.read_text(encoding="utf-8")
    before, _, rest = said.partition(begin)
    _, _, after = rest.partition(end)
    if not rest:
        raise SystemExit(f"{page} has no place {begin}")
    page.write_text(f"{before}{begin}\n{state}\n\n{table(figures)}\n{end}{after}", encoding="utf-8")
    picture = ROOT / "docs" / "images" / f"scale-{database}.svg"
    picture.write_text(plot(figures, MEASURES), encoding="utf-8")


def main() -> None:
    """Measure each size, print the table, and keep it when asked to."""
    parser = argparse.ArgumentParser(description="Times and memory by the number of stored items.")
    parser.add_argument("--sizes", default="1000,10000,100000,1000000")
    parser.add_argument("--database", help="an empty database for each size is made at this PostgreSQL URL")
    parser.add_argument("--write", action="store_true", help="put the results into docs/")
    parser.add_argument(
        "--json", type=Path, help="keep the figures in this file; sizes already there are kept"
    )
    parser.add_argument(
        "--cpu", action="store_true", help="CPU time instead of the clock's, on a busy machine"
    )
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        print(json.dumps(one(chosen.one)))
        return
    if chosen.cpu:
        os.environ[CPU] = "yes"
    kind = "postgresql" if chosen.database else "sqlite"
    known = json.loads(chosen.json.read_text()) if chosen.json and chosen.json.exists() else {}
    figures = {int(size): found for size, found in known.items()}
    for size in map(int, chosen.sizes.split(",")):
        print(f"{size:,} items …", file=sys.stderr)
        figures[size] = _alone(size, chosen.database) | {"load": os.getloadavg()[0]}
        if chosen.json:
            chosen.json.write_text(json.dumps(figures))
    figures = dict(sorted(figures.items()))
    loads = ", ".join(f"{found['load']:.1f}" for found in figures.values())
    state = (
        f"Measured on {os.cpu_count()} cores, Python {platform.python_version()}, {kind}"
        f"{', in CPU time of the process' if os.environ.get(CPU) else ''}; load of the machine at the end of "
        f"each size: {loads}. N items wait, N/2 were decided."
    )
    print(f"{state}\n\n{table(figures)}")
    if chosen.write:
        write(figures, kind, state)


if __name__ == "__main__":
    main()
