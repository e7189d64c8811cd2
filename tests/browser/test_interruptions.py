"""Nothing typed is lost: a reviewer is interrupted in every way a browser knows, and finds the text again.

Each way once, and as many more by lot as DESK_INTERRUPTIONS says, from a seed that is told; the release runs
500.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from playwright.sync_api import expect
from sqlalchemy import select, update

from reviewqueue.db import db, now, transaction
from reviewqueue.errors import Conflict
from reviewqueue.models import Claim, Review, WebSession
from reviewqueue.people.access import SYSTEM
from reviewqueue.people.sign_in import new_link, revoke_sessions
from reviewqueue.review import claim as claims
from tests.browser.test_review import ready
from tests.make import Make

pytestmark = pytest.mark.sqlite

TIMES = int(os.environ.get("DESK_INTERRUPTIONS", "11"))
SEED = int(os.environ.get("DESK_SEED", "24"))
PAUSE = 2000  # ms within which a pause saves


class Desk:
    """One reviewer with browsers: a page at a claim, and what was typed there last."""

    def __init__(self, browser: Any, live: str, make: Make) -> None:
        self.browser, self.live, self.make = browser, live, make
        self.ada, self.cleo = make.person("ada"), make.person("cleo")
        self.item = make.item(make.project())
        self.context, self.page = self.another_machine()
        self.typed = ""

    def another_machine(self) -> tuple[Any, Any]:
        """A fresh browser profile, signed in."""
        context = self.browser.new_context(base_url=self.live)
        page = context.new_page()
        self.sign_in(page)
        return context, page

    def sign_in(self, page: Any) -> None:
        page.goto(f"/login/link/{new_link(SYSTEM, self.ada.id)}")
        if "/login/link/" in page.url:
            page.locator("main form button").click()
            page.wait_for_url(lambda address: "/login/" not in address)

    def resume(self) -> None:
        """Back to the review, by whatever way is open."""
        self.page.goto(f"/items/{self.item.id}")
        answer = self.page.request.post(
            f"{self.live}/items/{self.item.id}/claims",
            form={"csrf_token": self.page.locator("meta[name=csrf-token]").get_attribute("content")},
            headers={"Origin": self.live}, max_redirects=0,
        )  # fmt: skip
        self.page.goto(answer.headers["location"])
        ready(self.page)

    def type(self, text: str) -> None:
        self.typed = text
        self.page.fill("#decision-form textarea[name=output]", text)

    def shown(self) -> str:
        return str(self.page.input_value("#decision-form textarea[name=output]"))

    def take_over(self) -> None:
        """Somebody else gets the review, and gives it back later."""
        for _ in range(10):  # a tab of hers may renew the lease at this very moment
            self.give_back()
            with suppress(Conflict):
                self.make.claim(self.cleo, self.item)
                return
        raise AssertionError("nobody could take the review")

    def give_back(self) -> None:
        with transaction() as session:
            session.execute(update(Review).values(lease_expires_at=now() - timedelta(seconds=1)))

    def saved(self) -> bool:
        """Whether the server holds what was typed last, with any claim of hers."""
        db.session.rollback()
        drafts = db.session.scalars(select(Claim.draft).where(Claim.person_id == self.ada.id)).all()
        return any(draft and draft.get("output") == self.typed for draft in drafts)

    def wait_saved(self) -> None:
        for _ in range(60):
            if self.saved():
                return
            self.page.wait_for_timeout(100)
        raise AssertionError(f"not saved: {self.typed!r}")


def leaving(desk: Desk) -> None:
    """To another page at once, before any pause."""
    desk.page.goto("/account")


def closing(desk: Desk) -> None:
    """The tab is closed at once."""
    other = desk.context.new_page()
    desk.page.close(run_before_unload=True)
    desk.page = other


def crash(desk: Desk) -> None:
    """The browser is gone a pause after the last letter."""
    desk.page.wait_for_timeout(PAUSE)
    desk.context.close()
    desk.context, desk.page = desk.another_machine()


def other_tab(desk: Desk) -> None:
    """Work goes on in another tab; the first one is left open."""
    desk.page.wait_for_timeout(PAUSE)
    desk.page = desk.context.new_page()


def old_tab_comes_back(desk: Desk) -> None:
    """Work goes on in another tab; then the network comes back to both, and the first has nothing to say."""
    desk.page.wait_for_timeout(PAUSE)
    old, desk.page = desk.page, desk.context.new_page()
    desk.resume()
    desk.type(desk.typed + " In the other tab.")
    desk.wait_saved()
    desk.page.close()
    desk.page = desk.context.new_page()
    desk.context.set_offline(True)
    expect(old.locator("#offline")).to_contain_text("cannot be reached", timeout=3000)
    desk.context.set_offline(False)
    expect(old.locator("#offline")).to_be_hidden(timeout=10_000)


def other_machine(desk: Desk) -> None:
    """Work goes on at another machine."""
    desk.page.wait_for_timeout(PAUSE)
    desk.context, desk.page = desk.another_machine()


def lost_lease(desk: Desk) -> None:
    """Somebody else takes the review while she types: she is told, and the text is kept."""
    desk.take_over()
    desk.type(desk.typed + " And more.")
    expect(desk.page.locator("#lost")).to_contain_text("Cleo", timeout=5000)
    expect(desk.page.locator("#kept")).to_have_value(desk.typed)
    desk.give_back()


def lost_while_reading(desk: Desk) -> None:
    """Somebody else takes the review while she does nothing: she is told within five seconds."""
    desk.page.wait_for_timeout(PAUSE)
    desk.take_over()
    expect(desk.page.locator("#lost")).to_contain_text("Cleo", timeout=5000)
    desk.give_back()


def signed_out(desk: Desk) -> None:
    """Her sessions end while she types; she signs in in another tab, and what she typed is sent."""
    revoke_sessions(SYSTEM, desk.ada.id)
    desk.type(desk.typed + " After the end.")
    expect(desk.page.locator("#offline")).to_contain_text("signed out", timeout=5000)
    assert desk.shown() == desk.typed
    desk.sign_in(desk.context.new_page())
    desk.wait_saved()
    expect(desk.page.locator("#offline")).to_be_hidden(timeout=10_000)


def network_away(desk: Desk) -> None:
    """The network goes while she types: it shows at once, and all of it is sent when it is back."""
    desk.context.set_offline(True)
    desk.type(desk.typed + " On the train.")
    expect(desk.page.locator("#offline")).to_contain_text("cannot be reached", timeout=3000)
    desk.type(desk.typed + " Still there.")
    assert not desk.saved()
    desk.context.set_offline(False)
    desk.wait_saved()
    expect(desk.page.locator("#offline")).to_be_hidden(timeout=10_000)


def server_away(desk: Desk) -> None:
    """Saves fail for a while, with the network up: they are tried again."""
    desk.context.route("**/claims/*", lambda route: route.abort())
    desk.type(desk.typed + " While it was down.")
    expect(desk.page.locator("#offline")).to_contain_text("cannot be reached", timeout=5000)
    desk.context.unroute("**/claims/*")
    desk.wait_saved()


INTERRUPTIONS: list[Callable[[Desk], None]] = [
    leaving, closing, crash, other_tab, old_tab_comes_back, other_machine, lost_lease, lost_while_reading,
    signed_out, network_away, server_away,
]  # fmt: skip


def test_no_text_is_lost_whatever_interrupts(browser: Any, live: str, make: Make) -> None:
    dice = random.Random(SEED)
    # Each kind once, then by lot.
    order = (dice.sample(INTERRUPTIONS, len(INTERRUPTIONS)) + dice.choices(INTERRUPTIONS, k=TIMES))[:TIMES]
    desk = Desk(browser, live, make)
    lost = []
    for turn, interrupt in enumerate(order):
        desk.resume()
        if desk.typed and desk.shown() != desk.typed:
            lost.append((turn, interrupt.__name__))
        desk.type(f"Thought {turn}: " + "a word or two, " * dice.randrange(1, 30))
        desk.page.wait_for_timeout(dice.choice([0, 0, 300, 900]))
        interrupt(desk)
        if len(desk.browser.contexts) > 3:
            for old in [one for one in desk.browser.contexts if one is not desk.context]:
                old.close()
    desk.resume()
    if desk.shown() != desk.typed:
        lost.append((len(order), "the last"))
    assert lost == [], f"seed {SEED}"
    assert db.session.scalars(select(WebSession.token_hash)).first() is not None


def test_a_draft_that_is_not_kept_is_noticed(
    browser: Any, live: str, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test of the test: where drafts are dropped the same look finds the loss."""
    renew = claims.renew
    monkeypatch.setattr(claims, "renew", lambda actor, token, draft=None: renew(actor, token, None))
    desk = Desk(browser, live, make)
    desk.resume()
    desk.type("This goes nowhere.")
    leaving(desk)
    desk.page.wait_for_timeout(300)
    desk.resume()
    assert desk.shown() != "This goes nowhere."
    assert not desk.saved()
