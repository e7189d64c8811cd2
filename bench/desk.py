"""How fast the desk is, in a real browser on a queue of many items: `python -m bench.desk`.

From the key that decides to the next item painted and taking keys; what the server needs of that; the review
page cold (bytes over the wire, requests, first paint); the list of the queue. A fresh SQLite database is
filled in a folder of its own and thrown away.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench import fill
from reviewqueue import create_base
from reviewqueue.config import Settings, create_keys, use
from reviewqueue.people.access import SYSTEM
from reviewqueue.people.backends import add_backend
from reviewqueue.people.sign_in import add_person
from reviewqueue.routing import projects
from reviewqueue.schema import migrate

ROOT = Path(__file__).resolve().parent.parent
QUEUE = "/queues/desk-bench/main"
PROJECT = """name = "desk-bench"
kind = "text"
guidelines = "Check every date against the passages."
[policy]
undo_seconds = 10
"""
# Told by the page itself: when the key went down, and when the next form had been painted and took keys.
WATCH = """
window.bench = {pressed: 0, times: []};
addEventListener("keydown", (event) => { window.bench.pressed = event.timeStamp; }, true);
const seen = () => {
  const form = document.querySelector("#decision-form[data-ready]");
  if (!form || form.dataset.counted) return;
  form.dataset.counted = "yes";
  if (window.bench.pressed) window.bench.times.push(performance.now() - window.bench.pressed);
};
new MutationObserver(seen).observe(document, {subtree: true, childList: true, attributes: true,
  attributeFilter: ["data-ready"]});
"""
# How long somebody reads before they decide, in ms: as few do, and without looking.
READING = {"": 700, "_hasty": 0}
BUDGETS = {
    "key_to_next_p95_ms": 150, "server_p95_ms": 40, "cold_kb": 80, "cold_requests": 8,
    "first_paint_ms": 300, "list_p95_ms": 100,
}  # fmt: skip


def main() -> None:
    """Measure, print a table or the figures; exit 1 when a budget is overrun and --check is given."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--size", type=int, default=100_000, help="items waiting")
    asked.add_argument("--decisions", type=int, default=60)
    asked.add_argument("--json", action="store_true")
    asked.add_argument("--check", action="store_true", help="exit 1 when a budget is overrun")
    args = asked.parse_args()
    figures = measure(args.size, args.decisions)
    if args.json:
        print(json.dumps(figures))
    else:
        print(f"{args.size:,} items waiting, {args.decisions} decided by key\n")
        for name, value in figures.items():
            budget = BUDGETS.get(name)
            print(f"{name:24} {value:10.1f}" + (f"   at most {budget}" if budget else ""))
    if args.check and any(figures[name] > most for name, most in BUDGETS.items()):
        sys.exit(1)


def measure(size: int, decisions: int) -> dict[str, float]:
    """Every figure, on a database filled with `size` waiting items."""
    folder = Path(tempfile.mkdtemp(prefix="rq-bench-"))
    try:
        link = _filled(folder, size)
        with _served(folder) as (url, lines):
            return _driven(url, link, lines, decisions)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _environ(folder: Path, **more: str) -> dict[str, str]:
    ours = {"REVIEWQUEUE_ENV": "test", "REVIEWQUEUE_DATA_DIR": str(folder / "var"),
            "REVIEWQUEUE_KEYS_DIR": str(folder / "keys"), "REDIS_URL": f"unix://{folder}/none.sock",
            "DATABASE_URL": f"sqlite:///{folder}/rq.sqlite3"}  # fmt: skip
    return ours | more


def _filled(folder: Path, size: int) -> str:
    (folder / "var").mkdir()
    create_keys(folder / "keys")
    settings = Settings.load(_environ(folder))
    use(settings)
    with create_base(settings).app_context():
        migrate()
        projects.apply(PROJECT, SYSTEM)
        add_backend(SYSTEM, "desk-bench", "desk-bench")
        person, token = add_person(SYSTEM, "bench@example.org", "reviewer", name="Bench")
        where = fill.place("desk-bench", person.id, person.id)
        fill.items(where, 1, size)
        fill.waiting(where, 1, size)
        fill.analyse()
    return f"/login/link/{token}"


@contextmanager
def _served(folder: Path) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The web server in processes of its own; its address and the lines it logs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        bind = f"127.0.0.1:{free.getsockname()[1]}"
    environ = {name: value for name, value in os.environ.items() if not name.startswith("REVIEWQUEUE_")}
    server = subprocess.Popen(
        [sys.executable, "-m", "reviewqueue", "web"],
        cwd=ROOT, env=environ | _environ(folder, REVIEWQUEUE_BIND=bind), stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    lines: list[dict[str, Any]] = []

    def read() -> None:
        assert server.stderr is not None
        for line in server.stderr:
            if line.startswith("{"):
                lines.append(json.loads(line))

    threading.Thread(target=read, daemon=True).start()
    try:
        _wait(f"http://{bind}/healthz")
        yield f"http://{bind}", lines
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(20)


def _wait(address: str) -> None:
    until = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(address).close()
            return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def _driven(url: str, link: str, lines: list[dict[str, Any]], decisions: int) -> dict[str, float]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        context = browser.new_context(base_url=url)
        page = context.new_page()
        page.add_init_script(WATCH)
        page.goto(link)
        if "/login/link/" in page.url:
            page.locator("main form button").click()
            page.wait_for_url(lambda address: "/login/" not in address)
        page.goto(QUEUE)
        page.get_by_role("button", name="Review the next").click()
        page.locator("#decision-form[data-ready]").wait_for()
        figures = _cold(browser, context, page.url)
        for name, reading in READING.items():
            lines.clear()
            page.evaluate("window.bench.times = []")
            for _ in range(decisions):
                page.wait_for_timeout(reading)
                item = page.locator("#decision-form").get_attribute("data-item")
                page.keyboard.press("1")
                page.locator(f"#decision-form[data-ready]:not([data-item={item}])").wait_for()
            times = page.evaluate("window.bench.times")
            figures |= _spread(f"key_to_next{name}", times) | _spread(f"server{name}", _by_decision(lines))
        figures |= _spread("list", _listed(page))
        browser.close()
    return figures


def _cold(browser: Any, signed_in: Any, address: str) -> dict[str, float]:
    """The review page with nothing in the browser's cache."""
    context = browser.new_context(storage_state=signed_in.storage_state())
    page = context.new_page()
    devtools = context.new_cdp_session(page)
    devtools.send("Network.enable")
    asked: dict[str, str] = {}
    wire: list[float] = []

    def arrived(event: dict[str, Any]) -> None:
        # The next review is fetched once this page stands; pictures in the style sheet cost nothing more.
        name = asked.get(event["requestId"], "")
        if not name.endswith("/ahead") and not name.startswith("data:"):
            wire.append(event["encodedDataLength"])

    devtools.on(
        "Network.requestWillBeSent", lambda event: asked.update({event["requestId"]: event["request"]["url"]})
    )
    devtools.on("Network.loadingFinished", arrived)
    page.goto(address)
    page.locator("#decision-form[data-ready]").wait_for()
    page.wait_for_timeout(300)
    figures = {"cold_kb": sum(wire) / 1024, "cold_requests": float(len(wire))}
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    context.close()
    return figures | {"first_paint_ms": paint}


def _by_decision(lines: list[dict[str, Any]]) -> list[float]:
    """What the server needed from each verdict to the next page: both requests together."""
    times: list[float] = []
    for line in lines:
        if line.get("route") == "/claims/<token>/decision":
            times.append(line["ms"])
        elif line.get("route") == "/claims/<token>" and line.get("method") == "GET" and times:
            times[-1] += line["ms"]
    return times


def _listed(page: Any) -> list[float]:
    """The list of the queue, page by page, as the browser sees it: until its answer has arrived."""
    times = []
    address: str | None = QUEUE
    for _ in range(20):
        if address is None:
            break
        page.goto(address)
        times.append(page.evaluate("performance.getEntriesByType('navigation')[0].responseEnd"))
        further = page.locator("a[rel=next]")
        address = further.first.get_attribute("href") if further.count() else None
    return times


def _spread(name: str, times: list[float]) -> dict[str, float]:
    ordered = sorted(times) or [math.nan]
    return {
        f"{name}_median_ms": ordered[len(ordered) // 2],
        f"{name}_p95_ms": ordered[min(len(ordered) - 1, math.ceil(0.95 * len(ordered)) - 1)],
    }


if __name__ == "__main__":
    main()
