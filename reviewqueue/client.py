"""For backends: submit an output, wait for its decision, fetch examples, verify a callback.

Needs httpx alone and imports nothing else of this product: copy the file into a backend as it is.
It never invents an answer: what the server did not say is raised.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

import httpx

RETRIED = (429, 502, 503, 504)
LONGEST_WAIT = 30  # seconds one request may be held by the server


class Refused(Exception):
    """The server said no; `problem` is its application/problem+json answer."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        super().__init__(
            f"{status} {problem.get('code', '')}: {problem.get('detail', problem.get('title', ''))}"
        )
        self.status = status
        self.problem = problem


class Unverified(Exception):
    """A callback that must not be believed; the message says which check failed."""


class Client:
    """One backend's connection. Safe to share between threads; close it when done."""

    def __init__(
        self, url: str, api_key: str, *, tries: int = 5, transport: httpx.BaseTransport | None = None
    ):
        self._tries = tries
        self._http = httpx.Client(
            base_url=url.rstrip("/") + "/api/v1",
            headers={"Authorization": f"Bearer {api_key}"},
            timeout=httpx.Timeout(10, read=LONGEST_WAIT + 15),
            transport=transport,
        )

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()

    def submit(self, project: str, output: Any, *, key: str | None = None, **fields: Any) -> dict[str, Any]:
        """Submit one output and return the item as the server answered.

        `fields` are those of the API (input, context, confidence, external_id, …). `key` is the
        idempotency key; without one a fresh key is made, so that the retries of this call are one item.
        """
        headers = {"Idempotency-Key": key or uuid.uuid4().hex}
        return self._ask(
            "POST", "/items", json={"project": project, "output": output, **fields}, headers=headers
        )

    def submit_batch(
        self, items: Iterable[Mapping[str, Any]], *, key: str | None = None
    ) -> list[dict[str, Any]]:
        """Submit up to 1,000 items; one result each: `index`, `status` and `item` or `error`."""
        headers = {"Idempotency-Key": key or uuid.uuid4().hex}
        body = {"items": [dict(item) for item in items]}
        results: list[dict[str, Any]] = self._ask("POST", "/items/batch", json=body, headers=headers)[
            "results"
        ]
        return results

    def item(self, item_id: str) -> dict[str, Any]:
        """The item as it stands now."""
        return self._ask("GET", f"/items/{item_id}")

    def wait(self, item_id: str, *, seconds: float = 300) -> dict[str, Any]:
        """The item once its decision is final, or as it stands after `seconds`."""
        end = time.monotonic() + seconds
        while True:
            left = end - time.monotonic()
            item = self._ask(
                "GET", f"/items/{item_id}", params={"wait": max(0, min(LONGEST_WAIT, int(left)))}
            )
            decision = item.get("decision")
            waiting = item["status"] == "pending" or (decision is not None and not decision["final"])
            if not waiting or left <= 0:
                return item
            time.sleep(min(max(left, 0), 0.2))

    def withdraw(self, item_id: str) -> dict[str, Any]:
        """Take a pending item back: nobody needs to decide it any more."""
        return self._ask("POST", f"/items/{item_id}/withdrawal")

    def examples(self, project: str, input: Any, *, k: int = 5, max_tokens: int = 1500) -> dict[str, Any]:
        """The active examples nearest to `input`; send `set` (as `example_set`) and `arm` with the item."""
        body = {"input": input, "k": k, "max_tokens": max_tokens}
        return self._ask("POST", f"/projects/{project}/examples/search", json=body)

    def _ask(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        for turn in range(self._tries):
            last = turn == self._tries - 1
            try:
                response = self._http.request(method, path, **request)
            except httpx.TransportError:
                if last:
                    raise
                time.sleep(0.2 * 2**turn)
                continue
            if response.status_code in RETRIED and not last:
                time.sleep(_retry_after(response, 0.2 * 2**turn))
                continue
            return _read(response)
        raise ValueError("tries must be at least 1")


def verify_callback(
    headers: Mapping[str, str], body: bytes, secrets: str | Iterable[str], *, now: float | None = None
) -> dict[str, Any]:
    """The event in a callback, once its signature and time hold; Unverified otherwise.

    `secrets` are the callback secrets in use ("whsec_…", two while one is being rotated); `now` is in
    seconds since 1970. Signature and window (300 s) are those of the Standard Webhooks specification.
    Afterwards: forget an event whose `webhook-id` or lower `data.sequence` you have seen.
    """
    sent = {name.lower(): value for name, value in headers.items()}
    try:
        event_id, moment, signatures = (
            sent["webhook-id"],
            sent["webhook-timestamp"],
            sent["webhook-signature"],
        )
    except KeyError as missing:
        raise Unverified(f"the header {missing.args[0]} is missing") from None
    if not moment.isascii() or not moment.isdigit() or len(moment) > 12:
        raise Unverified("webhook-timestamp is not a number of seconds")
    if abs((time.time() if now is None else now) - int(moment)) > 300:
        raise Unverified("webhook-timestamp is more than 300 seconds away")
    signed = f"{event_id}.{moment}.".encode() + body
    known = [secrets] if isinstance(secrets, str) else list(secrets)
    wanted = [_sign(secret, signed) for secret in known]
    given = signatures.split(" ")[:16]
    if not any(hmac.compare_digest(one.encode(), other) for one in given for other in wanted):
        raise Unverified("no signature matches")
    event: dict[str, Any] = json.loads(body)
    return event


def _sign(secret: str, signed: bytes) -> bytes:
    key = base64.b64decode(secret.removeprefix("whsec_"))
    return b"v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest())


def _retry_after(response: httpx.Response, otherwise: float) -> float:
    given = response.headers.get("retry-after", "")
    return min(float(given), 60.0) if given.isdigit() else otherwise


def _read(response: httpx.Response) -> dict[str, Any]:
    try:
        answer = response.json()
    except ValueError:
        answer = {"title": f"not JSON: {response.status_code}"}
    if not isinstance(answer, dict):
        answer = {"title": "not an object"}
    if response.is_success:
        return answer
    raise Refused(response.status_code, answer)
