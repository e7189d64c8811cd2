"""A person at a browser without JavaScript, over HTTP: signs in, reads pages, sends their forms."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from typing import Any

import httpx


@dataclass(frozen=True)
class ReviewPage:
    """What a review page offers: whose item it is, the proof of the claim, the form as it came."""

    token: str
    item: str
    decision_id: str
    output: str | None
    text: str


class Visitor:
    """One signed-in person at the instance at `url`; `link` is a one-time sign-in link."""

    def __init__(
        self, url: str, link: str | None = None, transport: httpx.BaseTransport | None = None
    ) -> None:
        self.http = httpx.Client(base_url=url, timeout=30, transport=transport)
        self.csrf = ""
        if link is not None:
            answer = self.http.get(httpx.URL(link).path)
            assert answer.status_code == 303, answer.text

    def get(self, path: str) -> str:
        """A page as it came; anything but a page is a failure."""
        return self.open(path).text

    def open(self, path: str) -> httpx.Response:
        """A page wherever the path leads; anything but a page is a failure."""
        answer = self.http.get(path, follow_redirects=True)
        assert answer.status_code == 200, f"{path}: {answer.status_code} {told(answer)}"
        return answer

    def send(self, path: str, page: str = "/account", **fields: Any) -> httpx.Response:
        """Send a form with the token of one of our pages; the answer, redirects not followed."""
        if not self.csrf:
            found = re.search(r'name="csrf-token" content="([^"]+)"', self.get(page))
            assert found, f"{page} carries no token"
            self.csrf = found[1]
        given = {name: value for name, value in fields.items() if value is not None}
        return self.http.post(path, data={"csrf_token": self.csrf} | given)

    def claim(self, project: str, queue: str = "main") -> ReviewPage | None:
        """The next review of a queue; None when nothing is free."""
        answer = self.send(f"/queues/{project}/{queue}/claims")
        if answer.status_code == 200:
            return None
        assert answer.status_code == 303, f"{answer.status_code} {told(answer)}"
        return self.review(answer.headers["location"])

    def review(self, path: str) -> ReviewPage | None:
        """The review page of a claim, or of another one when this was only offered and is taken by now.

        None when nothing is left to offer.
        """
        answer = self.open(path)
        text, path = answer.text, answer.url.path
        if not path.startswith("/claims/"):
            return None
        form = re.search(r'<form[^>]*id="decision-form".*?</form>', text, re.DOTALL)
        assert form, f"{path} holds no decision form"
        decision = re.search(r'name="decision_id"[^>]*value="([^"]+)"', form[0]) or re.search(
            r'value="([^"]+)"[^>]*name="decision_id"', form[0]
        )
        item = re.search(r"itm_[0-9a-z]{26}", text)
        output = re.search(r'<textarea[^>]*name="output"[^>]*>(.*?)</textarea>', form[0], re.DOTALL)
        assert decision
        assert item
        # A browser drops the line end right after the tag.
        shown = html.unescape(output[1].removeprefix("\n")) if output else None
        return ReviewPage(path.rsplit("/", 1)[1], item[0], decision[1], shown, text)

    def decide(self, page: ReviewPage, verdict: str, **fields: Any) -> httpx.Response:
        """Send the decision form of a review page."""
        fields = {"output": page.output, "decision_id": page.decision_id, "verdict": verdict} | fields
        return self.send(f"/claims/{page.token}/decision", **fields)

    def close(self) -> None:
        self.http.close()

    def __enter__(self) -> Visitor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def told(answer: httpx.Response) -> str:
    """What a page says in its main part, without markup: for the message of a test that fails."""
    main = answer.text.partition("<main")[2] or answer.text
    return " ".join(re.sub(r"<[^>]*>", " ", main).split())[:500]
