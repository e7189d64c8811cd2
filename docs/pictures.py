"""The pictures of the documentation: `make screenshots` writes docs/images/*.png anew.

A real application serves the made-up day of docs/day.py from a fresh data folder, and a real browser goes
where a reviewer would. A page that did not change must give the same picture again.
"""

from __future__ import annotations

import argparse
import base64
import logging
import struct
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from docs.day import Day, same_ids, settings
from reviewqueue import create_app, ids
from reviewqueue.people.access import SYSTEM
from reviewqueue.people.sign_in import new_link
from reviewqueue.review.claim import claim_item, release, renew
from reviewqueue.review.decide import decide
from reviewqueue.schema import migrate
from tests import servers

FOLDER = Path(__file__).resolve().parent / "images"
SIZES = {360: 800, 1280: 800, 1920: 1080}  # width and height of the window
THEMES = ("light", "dark")
MOST = 4_000_000  # bytes all pictures may have together
COLOURS, APART = 64, 9  # of one picture; how far from each other

GUARANTEE = (
    "lifetime guarantee** on the frame. It is tied to the first owner, so unfortunately it ends when you"
    " sell the bicycle to your brother."
)
MINE = "guarantee of five years** on the frame. It goes with the bicycle when you sell it to your brother."
THEIRS = "five-year guarantee** on the frame, and it stays valid when your brother buys the bicycle from you."

KINDS = {
    "text": "tl-0009", "markdown": "sr-1003", "label": "tk-505", "json": "in-3003", "tool-call": "ra-123",
    "chat": "tc-15",
}  # fmt: skip
NAMES = ("empty", "desk", "queue", *(f"review-{kind}" for kind in KINDS), "diff", "bulk", "error", "conflict")

# What differs from one run to the next: a request's id, and the port we were given.
STEADY = r"""() => {
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) texts.currentNode.nodeValue = texts.currentNode.nodeValue
    .replace(/\b[0-9a-f]{32}\b/g, "3f8783e8f369463092b5ae65c914251e")
    .replace(/127\.0\.0\.1:\d+/g, "127.0.0.1:8000");
}"""
# A picture's colours, most frequent first and none near another, and for each point which of them is nearest.
INDEXED = """async ([png, most, near]) => {
  const picture = await createImageBitmap(await (await fetch("data:image/png;base64," + png)).blob());
  const context = new OffscreenCanvas(picture.width, picture.height).getContext("2d");
  context.drawImage(picture, 0, 0);
  const points = new Uint32Array(context.getImageData(0, 0, picture.width, picture.height).data.buffer);
  const seen = new Map(), kept = [];
  for (const point of points) seen.set(point, (seen.get(point) || 0) + 1);
  const step = (a, b, bits) => ((a >> bits & 255) - (b >> bits & 255)) ** 2;
  const apart = (a, b) => step(a, b, 0) + step(a, b, 8) + step(a, b, 16);
  for (const point of [...seen.keys()].sort((a, b) => seen.get(b) - seen.get(a) || a - b)) {
    if (kept.length < most && kept.every((one) => apart(one, point) >= near ** 2)) kept.push(point);
  }
  const nearest = (point) => kept.reduce(
    (best, one, place) => apart(point, one) < apart(point, kept[best]) ? place : best, 0);
  const became = new Map([...seen.keys()].map((point) => [point, nearest(point)]));
  return [kept.flatMap((one) => [one & 255, one >> 8 & 255, one >> 16 & 255]),
    btoa(Array.from(points, (point) => String.fromCharCode(became.get(point))).join(""))];
}"""


def main() -> None:
    """Take every picture, or those that are named."""
    asked = argparse.ArgumentParser(description="Write the pictures of the documentation anew.")
    asked.add_argument("names", nargs="*", help=f"only these of {', '.join(NAMES)}")
    asked.add_argument("--to", type=Path, default=FOLDER, help="another folder than docs/images")
    args = asked.parse_args()
    if unknown := set(args.names) - set(NAMES):
        asked.error(f"there is no picture called {', '.join(sorted(unknown))}")
    args.to.mkdir(parents=True, exist_ok=True)
    logging.disable(logging.WARNING)  # of requests, and that no Redis is here
    with studio(args.to, set(args.names) or set(NAMES)) as open_studio:
        # The first one needs an empty desk, the last one decides something.
        for take in (empty, desk, reviews, diff, bulk, error, conflict):
            take(open_studio)
    size = sum(file.stat().st_size for file in args.to.glob("*.png"))
    print(f"{len(list(args.to.glob('*.png')))} pictures, {size / 1e6:.1f} MB in {args.to}")
    if size > MOST:
        raise SystemExit(f"more than {MOST / 1e6:.0f} MB: take fewer, or smaller ones")


class Studio:
    """A browser before a served application."""

    def __init__(self, day: Day, url: str, browser: Any, to: Path, wanted: set[str]) -> None:
        self.url, self.browser, self.to, self.wanted = url, browser, to, wanted
        self.darkroom = browser.new_page()
        self.windows: dict[str, Any] = {}
        self.day = day

    def window(self, role: str) -> Any:
        """A window in which the person with this role is signed in."""
        if role not in self.windows:
            context = self.browser.new_context(base_url=self.url, timezone_id="UTC", locale="en-GB")
            context.clock.set_fixed_time(self.day.began)
            page = context.new_page()
            page.goto(f"/login/link/{new_link(SYSTEM, self.day.actors[role].id)}")
            self.windows[role] = page
        return self.windows[role]

    def visit(self, role: str, path: str) -> Any:
        """That window on this page, at the time the day began."""
        self.day.ago(0)
        self.window(role).goto(path)
        return self.window(role)

    def take(self, name: str, page: Any, at: str | None = None) -> None:
        """Both themes in every width; `at` is what a window is scrolled to in which not all has room."""
        if name not in self.wanted:
            return
        for width, height in SIZES.items():
            page.set_viewport_size({"width": width, "height": height})
            page.evaluate("window.scrollTo(0, 0)")
            if at and width < max(SIZES):
                page.evaluate("at => document.querySelector(at).scrollIntoView()", at)
            for theme in THEMES:
                page.emulate_media(color_scheme=theme, reduced_motion="reduce")
                page.evaluate(STEADY)
                png = page.screenshot(animations="disabled")
                asked = [base64.b64encode(png).decode(), COLOURS, APART]
                palette, points = self.darkroom.evaluate(INDEXED, asked)
                made = _png(width, bytes(palette), base64.b64decode(points))
                (self.to / f"{name}-{theme}-{width}.png").write_bytes(made)
        print(name)


def _png(width: int, palette: bytes, points: bytes) -> bytes:
    """A PNG (ISO/IEC 15948) with a palette: a third as large as what the browser writes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    lines = b"".join(b"\0" + points[at : at + width] for at in range(0, len(points), width))
    head = struct.pack(">IIBBBBB", width, len(points) // width, 8, 3, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"PLTE", palette) + chunk(b"IDAT", zlib.compress(lines, 9))
    return b"\x89PNG\r\n\x1a\n" + parts + chunk(b"IEND", b"")


@contextmanager
def studio(to: Path, wanted: set[str]) -> Iterator[Studio]:
    """Everything running on a fresh folder, and gone afterwards."""
    from playwright.sync_api import sync_playwright

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rq-pictures-")))
        same_ids()
        app = create_app(settings(folder))
        stack.enter_context(app.app_context())
        migrate()
        url = stack.enter_context(servers.serve(app))
        playwright = stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(
            executable_path=servers.chromium(), args=[*servers.CHROMIUM_FLAGS, "--disable-lcd-text"]
        )
        stack.callback(browser.close)
        yield Studio(Day(folder), url, browser, to, wanted)


# --- the pictures ---------------------------------------------------------------------------------------


def empty(studio: Studio) -> None:
    """The first admin's desk before anything arrived; then the day goes by."""
    studio.take("empty", studio.visit("admin", "/"))
    studio.day.happen()


def desk(studio: Studio) -> None:
    """Queues, two reviews that are held, one's own day."""
    robin = studio.day.actors["reviewer"]
    tokens = []
    for minutes, external_id in ((4, "sr-1007"), (1, "tc-06")):
        studio.day.ago(minutes)
        tokens.append(claim_item(robin, studio.day.item(external_id).id).token)
    studio.take("desk", studio.visit("reviewer", "/"))
    studio.take("queue", studio.visit("reviewer", "/queues/support-replies/main"))
    for token in tokens:
        release(robin, token)


def reviews(studio: Studio) -> None:
    """The review page of each kind."""
    for kind, external_id in KINDS.items():
        with _review(studio, external_id) as page:
            studio.take(f"review-{kind}", page, at="#edit-title" if kind == "json" else None)


def diff(studio: Studio) -> None:
    """Word by word what an edit changes, while it is typed."""
    with _review(studio, "sr-1020") as page:
        editor = page.locator("textarea[name=output]")
        editor.fill(editor.input_value().replace(GUARANTEE, MINE))
        page.locator("#changes ins").first.wait_for()
        page.select_option("select[name=reason]", "promise we cannot keep")
        page.get_by_text("Draft saved").wait_for()
        editor.blur()
        studio.take("diff", page, at="#edit-title")


def bulk(studio: Studio) -> None:
    """What would happen to all that wait in a queue, and what would be left alone."""
    studio.take("bulk", studio.visit("reviewer", "/queues/ticket-labels/main/triage?all=yes"))


def conflict(studio: Studio) -> None:
    """Robin's lease ran out, Lena decided meanwhile: both texts and their differences."""
    robin, lena, item = studio.day.actors["reviewer"], studio.day.actors["lead"], studio.day.item("sr-1020")
    studio.day.ago(25)
    mine = claim_item(robin, item.id).token
    renew(robin, mine, {"output": item.output.replace(GUARANTEE, MINE), "reason": "wrong fact"})
    studio.day.ago(9)
    theirs = claim_item(lena, item.id).token
    output = item.output.replace(GUARANTEE, THEIRS)
    decide(lena, theirs, ids.new_id("dec"), "edit", output, "promise we cannot keep", "model")
    studio.take("conflict", studio.visit("reviewer", f"/claims/{mine}"))


def error(studio: Studio) -> None:
    """What is not there, or not for who asks."""
    studio.take("error", studio.visit("reviewer", f"/items/itm_{'0' * 26}"))


@contextmanager
def _review(studio: Studio, external_id: str) -> Iterator[Any]:
    """Robin's window at a review of the item, which is given back afterwards."""
    studio.day.ago(0)
    token = claim_item(studio.day.actors["reviewer"], studio.day.item(external_id).id).token
    page = studio.visit("reviewer", f"/claims/{token}")
    page.locator("#decision-form[data-ready]").wait_for()
    yield page
    page.goto("/account")
    release(studio.day.actors["reviewer"], token)


if __name__ == "__main__":
    main()
