"""What is secret or somebody's text is sent through everything that may fail, and then looked for (S16).

It may stand in the database and in callbacks; never in logs, metrics, Redis, the process list or an error's
answer.
"""

from __future__ import annotations

import secrets
import socket
import sqlite3
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import redis
import structlog
from rq import Queue
from rq.serializers import JSONSerializer

from reviewqueue import logs as product_logs
from reviewqueue.config import Settings
from tests.fire.deployment import Deployment
from tests.fire.load import PROJECT
from tests.receiver import receiver
from tests.servers import Redis
from tests.stacks import wait_until
from tests.visitor import Visitor


class Canaries:
    """Words that stand nowhere else, each told where it was sent."""

    def __init__(self) -> None:
        self.words: dict[str, str] = {}
        self.answers: list[httpx.Response] = []

    def new(self, where: str) -> str:
        return self.known(where, f"canary{secrets.token_hex(8)}")

    def known(self, where: str, word: str) -> str:
        self.words[word] = where
        return word

    def refused(self, answer: httpx.Response, status: int) -> None:
        assert answer.status_code == status, f"{answer.status_code} {answer.text[:300]}"
        self.answers.append(answer)

    def found_in(self, text: str) -> list[str]:
        """Where the words came from that stand in this text, as they are or as an address writes them."""
        return [where for word, where in self.words.items() if word in text or quote(word, "") in text]

    def leaks(self, places: Mapping[str, str]) -> list[str]:
        """Every word that stands in one of these places, by what it is and where."""
        return [f"{word} in {place}" for place, text in places.items() for word in self.found_in(text)]


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Deployment]:
    running = Deployment(tmp_path / "var", REVIEWQUEUE_WEB_WORKERS="1")
    try:
        running.start("app.py")
        running.wait_for()
        yield running
    finally:
        running.close()


def test_secrets_and_texts_stand_in_no_log_metric_or_error(stack: Deployment, tmp_path: Path) -> None:
    canaries = Canaries()
    with receiver() as backend:
        said = canaries.new("a receiver's answer")
        backend.says(500, said.encode(), x_odd=said)
        new = set_up(stack, tmp_path, backend.url)
        for name in ("api_key", "inbound_secret", "callback_secret"):
            canaries.known(name, new[name])
        backends(stack, new["api_key"], canaries)
        people(stack, canaries)
        assert wait_until(lambda: backend.heard, 20)
        jobs_that_fail(stack)
        strangers(stack, canaries)
    for path in (stack.folder / "keys").glob("*.key"):
        canaries.known(path.name, path.read_text().strip())
    assert len(canaries.words) > 20
    assert canaries.leaks(everything(stack, canaries)) == []


def set_up(stack: Deployment, folder: Path, url: str) -> Any:
    (folder / "replies.toml").write_text(PROJECT)
    stack.command("projects", "apply", str(folder / "replies.toml"))
    return stack.command("backends", "add", "bot", "--project", "replies", "--callback", url, "--trusted")


def backends(stack: Deployment, key: str, canaries: Canaries) -> None:
    """Items with a canary in every field, and every way to have one refused."""
    bearer = {"Authorization": f"Bearer {key}"}
    new = canaries.new
    item = {
        "project": "replies", "confidence": 0.1, "output": new("output"), "input": new("input"),
        "context": [{"title": new("title"), "text": new("passage"), "url": f"https://x.example/{new('url')}"}],
        "metadata": {"k": new("metadata")}, "subject": new("subject"), "feature": new("feature"),
        "external_id": new("external id"), "model": new("model"),
        "prompt": {"name": new("prompt"), "version": "1"},
        "risk_flags": [new("risk flag")], "trace": {"url": f"https://t.example/{new('trace')}"},
    }  # fmt: skip
    with httpx.Client(base_url=stack.url, headers=bearer) as http:
        assert http.post("/api/v1/items", json=item).status_code == 201
        canaries.refused(http.post("/api/v1/items", json=item | {"output": new("other output")}), 409)
        canaries.refused(http.post("/api/v1/items", json=item | {"project": new("a project")}), 404)
        canaries.refused(http.post("/api/v1/items", json=item | {"unknown": new("value")}), 422)
        canaries.refused(http.post("/api/v1/items", json=item | {"confidence": new("confidence")}), 422)
        broken = f'{{"output": "{new("broken JSON")}'.encode()
        canaries.refused(
            http.post("/api/v1/items", content=broken, headers={"Content-Type": "application/json"}), 422
        )
        canaries.refused(
            http.post("/api/v1/items", content=broken, headers={"Content-Type": "text/plain"}), 415
        )
        canaries.refused(http.get(f"/api/v1/items/{new('id')}"), 404)
        canaries.refused(http.get("/api/v1/items", params={new("parameter"): new("value")}), 422)
        canaries.refused(
            http.post("/api/v1/items", json=item, headers={"Idempotency-Key": f"{new('key')} x"}), 422
        )
        canaries.refused(
            http.get("/api/v1/items", headers={"Authorization": f"Bearer {new('bad key')}"}), 401
        )
        signed = {
            "webhook-id": new("webhook-id"),
            "webhook-timestamp": "1",
            "webhook-signature": new("signature"),
        }
        canaries.refused(http.post("/webhooks/bot", json=item, headers=signed), 401)
        with database(stack) as broken_database:
            broken_database.execute("ALTER TABLE review RENAME TO review_away")
            answer = http.post(
                "/api/v1/items", json=item | {"external_id": new("external id"), "output": new("lost")}
            )
            broken_database.execute("ALTER TABLE review_away RENAME TO review")
        assert answer.status_code >= 500
        canaries.answers.append(answer)


def people(stack: Deployment, canaries: Canaries) -> None:
    """A sign-in, a decision, and forms with a canary that are refused."""
    link = stack.command("people", "add", "ada@example.org", "--role", "reviewer")["link"]
    canaries.known("a sign-in link", link.rpartition("/")[2])
    with Visitor(stack.url, link) as ada:
        canaries.known("a session cookie", ada.http.cookies["rq"])
        page = ada.claim("replies")
        assert page is not None
        canaries.known("a claim's token", page.token)
        note, reason = canaries.new("note"), "wrong fact"
        # Her own form comes back filled in: that answer is hers to read.
        assert ada.decide(page, "edit", reason=canaries.new("reason"), note=note).status_code == 422
        edited = canaries.new("correction")
        assert ada.decide(page, "edit", output=edited, reason=reason, note=note).status_code == 303
        canaries.refused(ada.http.get(f"/claims/{canaries.new('claim')}"), 404)
        canaries.refused(
            ada.http.get(f"/items/{canaries.new('item')}", params={"q": canaries.new("query")}), 404
        )
    with Visitor(stack.url) as stranger:
        for field in ("password", "email"):
            form = {"email": "ada@example.org", "password": "wrong"} | {field: canaries.new(field)}
            assert stranger.send("/login", page="/login", **form).status_code in (401, 403, 422, 429)
        canaries.refused(stranger.http.get(f"/login/link/{canaries.new('bad link')}"), 403)


def jobs_that_fail(stack: Deployment) -> None:
    """Workers and relay meet a statement that fails with all it carries."""
    with database(stack) as broken:
        broken.execute("ALTER TABLE attempt RENAME TO attempt_away")
        broken.execute("UPDATE delivery SET state = 'due', next_attempt_at = '2020-01-01 00:00:00.000000'")
        failed = wait_until(lambda: '"error"' in logs(stack), 20)
        broken.execute("ALTER TABLE attempt_away RENAME TO attempt")
    assert failed, "no job failed"


def strangers(stack: Deployment, canaries: Canaries) -> None:
    """What no client sends: broken requests, hostile headers."""
    new = canaries.new
    for request in (
        f"GET /{new('path')} {new('version')}\r\n\r\n",
        f"{new('method')}\x01 / HTTP/1.1\r\nHost: x\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: localhost\r\n{new('header')}\x00: {new('value')}\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {new('length')}\r\n\r\n",
        f"GET /?{new('long')}={'x' * 9000} HTTP/1.1\r\nHost: localhost\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: {new('host')}\r\nConnection: close\r\n\r\n",
        f'GET /login HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: {new("id")}"}}\x7f\r\n'
        f"User-Agent: {new('agent')}\r\n"
        f"Referer: http://x/{new('referer')}\r\nCookie: rq={new('cookie')}\r\nConnection: close\r\n\r\n",
    ):
        with closing(socket.create_connection(("127.0.0.1", stack.port), timeout=10)) as line:
            line.sendall(request.encode("latin-1"))
            said = b""
            while piece := line.recv(1 << 16):
                said += piece
        assert wrong_with(said, canaries) == []


def wrong_with(said: bytes, canaries: Canaries) -> list[str]:
    """What an answer to a stranger must not be; a page may show what was asked for, a refusal nothing."""
    if not said.startswith(b"HTTP/1.1 "):
        return ["no answer"]
    if int(said[9:12]) < 400:
        return []
    wrong = canaries.leaks({"the refusal": said.decode("latin-1")})
    return wrong + ["no policy"] * (b"content-security-policy" not in said.lower())


def database(stack: Deployment) -> Any:
    return closing(sqlite3.connect(stack.folder / "reviewqueue.sqlite3", isolation_level=None, timeout=20))


def logs(stack: Deployment) -> str:
    return read([*(stack.folder / "logs").iterdir(), Path(stack.log.name)])


def read(files: list[Path]) -> str:
    return "".join(path.read_text("utf-8", "replace") for path in files)


def everything(stack: Deployment, canaries: Canaries) -> dict[str, str]:
    """All places where no canary may be."""
    metrics = httpx.get(f"{stack.url}/metrics").text
    assert "reviewqueue_refusals_total" in metrics
    journals = [path.read_text("latin-1") for path in (stack.folder / "redis").rglob("*.aof")]
    with redis.Redis.from_url(Settings.load(stack.environ).redis_url) as client:
        kept = in_redis(client)
    assert kept
    return {
        "logs": logs(stack),
        "metrics": metrics,
        "process list": command_lines(stack.processes()),
        "error answers": "".join(map(written, canaries.answers)),
        "Redis": "\n".join([kept, *journals]),
    }


def command_lines(pids: list[int]) -> str:
    lines = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids]
    return b" ".join(lines).decode("utf-8", "replace")


def written(answer: httpx.Response) -> str:
    """All of an answer; printed as they are, httpx hides some headers."""
    return f"{answer.headers.multi_items()} {answer.text}"


def in_redis(client: redis.Redis) -> str:
    """Every key with its value, packed ones (the work of RQ's jobs) unpacked."""
    ways: dict[bytes, Callable[[bytes], Any]] = {
        b"string": client.get, b"hash": client.hgetall, b"stream": client.xrange, b"set": client.smembers,
        b"list": lambda key: client.lrange(key, 0, -1), b"zset": lambda key: client.zrange(key, 0, -1),
    }  # fmt: skip
    said = []
    for key in client.scan_iter():
        kind: Any = client.type(key)
        value = ways[kind](key) if kind != b"none" else "gone"
        said.append(f"{key!r} {value!r} {[unpacked(part) for part in parts(value)]!r}")
    return "\n".join(said)


def parts(value: Any) -> Iterator[bytes]:
    """The texts in an answer of Redis."""
    if isinstance(value, bytes):
        yield value
    elif isinstance(value, dict):
        yield from parts([*value, *value.values()])
    elif isinstance(value, list | tuple | set):
        for each in value:
            yield from parts(each)


def unpacked(part: bytes) -> bytes:
    with suppress(zlib.error):
        return zlib.decompress(part)
    return b""


# --- can it fail? ---------------------------------------------------------------------------------


def test_a_canary_is_found_wherever_it_stands(
    redis_server: Redis, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    canaries = Canaries()
    word, secret = canaries.new("output"), canaries.known("callback_secret", "whsec_a+b/c=")
    product_logs.configure()
    structlog.get_logger("careless").error("request.failed", error=f"cannot store {word}")
    (tmp_path / "web.log").write_text(capsys.readouterr().err)
    assert canaries.leaks({"logs": read([tmp_path / "web.log"])}) == ["output in logs"]
    for text in (
        f'reviewqueue_refusals_total{{code="{word}"}} 1.0',
        written(httpx.Response(422, json={"detail": f"{word} is too long"})),
        written(httpx.Response(409, headers={"Authorization": f"Bearer {word}"})),
    ):
        assert canaries.leaks({"here": text}) == ["output in here"], text
    for text in (f'{{"secret": "{secret}"}}', f"GET /?key={quote(secret, '')} HTTP/1.1"):
        assert canaries.leaks({"here": text}) == ["callback_secret in here"], text
    with redis_server.client() as client:
        assert canaries.leaks({"Redis": in_redis(client)}) == []
        jobs = Queue("careless", connection=client, serializer=JSONSerializer)
        jobs.enqueue("reviewqueue.careless.job", args=(word * 20,), description="deliver")
        assert word.encode() not in b"".join(client.dump(key) for key in client.scan_iter())
        assert canaries.leaks({"Redis": in_redis(client)}) == ["output in Redis"]
        for keep in (
            lambda: client.set("a", word), lambda: client.rpush("b", word), lambda: client.sadd("c", word),
            lambda: client.zadd("d", {word: 1}), lambda: client.xadd("e", {"said": word}),
        ):  # fmt: skip
            client.flushall()
            keep()
            assert canaries.leaks({"Redis": in_redis(client)}) == ["output in Redis"]


def test_a_refusal_that_quotes_a_stranger_is_noticed() -> None:
    canaries = Canaries()
    head = b"HTTP/1.1 404 NOT FOUND\r\nContent-Security-Policy: default-src 'none'\r\n\r\n"
    path = canaries.new("path").encode()
    assert wrong_with(head, canaries) == []
    assert wrong_with(head + path, canaries) == ["path in the refusal"]
    assert wrong_with(b"HTTP/1.1 404 NOT FOUND\r\n\r\n", canaries) == ["no policy"]
    assert wrong_with(b"", canaries) == ["no answer"]
