"""Every setting: its name, default and meaning. Refuses to start half configured.

Settings come from the environment alone; keys come from files that only their owner can read. Nothing
here has a usable default that is secret.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

PREFIX = "REVIEWQUEUE_"
KEY_NAMES = ("session", "encryption", "ledger", "control", "checkpoint")
KEY_BYTES = 32

Network = IPv4Network | IPv6Network


class ConfigError(Exception):
    """The process must not start; the message names the setting and the remedy."""


def _choice(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"must be one of {', '.join(words)}")
        return text

    return parse


def _count(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return int(text)

    return parse


def _bind(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 <= int(port) <= 65535:
        raise ValueError("must be HOST:PORT, for example 127.0.0.1:8000")
    return text


def _public_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("must be http(s)://HOST[:PORT][/PATH]")
    return text.rstrip("/")


def _database(text: str) -> str:
    if text.startswith("postgres://"):
        text = "postgresql://" + text.removeprefix("postgres://")
    if text.startswith("postgresql://"):
        return "postgresql+psycopg://" + text.removeprefix("postgresql://")
    if not text.startswith(("sqlite:///", "postgresql+psycopg://")):
        raise ValueError("must begin with sqlite:/// or postgresql://")
    return text


def _redis(text: str) -> str:
    if not text.startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("must begin with redis://, rediss:// or unix://")
    return text


def _networks(text: str) -> tuple[Network, ...]:
    try:
        return tuple(ip_network(part.strip()) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise ValueError(f"must be CIDRs separated by commas, for example 10.1.0.0/16 ({error})") from None


def _rate(text: str) -> tuple[float, float] | None:
    if text == "0":
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)/(\d+)", text)
    if match is None or float(match[1]) <= 0 or int(match[2]) < 1:
        raise ValueError("must be ITEMS_PER_SECOND/BURST, for example 500/2000, or 0")
    return float(match[1]), float(match[2])


def _fault(text: str) -> tuple[str, int]:
    match = re.fullmatch(r"(fail|exit):([1-9][0-9]{0,8})", text)
    if match is None:
        raise ValueError("must be fail:N or exit:N")
    return match[1], int(match[2])


def _setting(name: str, default: str, parse: Callable[[str], Any], meaning: str) -> Any:
    return field(metadata={"name": name, "default": default, "parse": parse, "meaning": meaning})


@dataclass(frozen=True)
class Settings:
    """All settings of one process, checked. `Settings.load` is the way to make one."""

    env: str = _setting(
        "REVIEWQUEUE_ENV", "development", _choice("development", "production", "test"),
        "production refuses weak or missing keys and plain-http public addresses; test allows test seams",
    )  # fmt: skip
    data_dir: Path = _setting(
        "REVIEWQUEUE_DATA_DIR", "./var", lambda text: Path(text).absolute(),
        "everything the embedded default stores: database, Redis files, keys, exports",
    )  # fmt: skip
    database_url: str = _setting(
        "DATABASE_URL", "", _database, "sqlite:///… or postgresql://…; default: SQLite in the data folder"
    )
    redis_url: str = _setting(
        "REDIS_URL", "", _redis, "redis://, rediss:// or unix://; default: an embedded one in the data folder"
    )
    bind: str = _setting("REVIEWQUEUE_BIND", "127.0.0.1:8000", _bind, "where the web server listens")
    public_url: str = _setting(
        "REVIEWQUEUE_PUBLIC_URL", "", _public_url, "in links and callbacks; default: from the bind address"
    )
    keys_dir: Path = _setting(
        "REVIEWQUEUE_KEYS_DIR", "", lambda text: Path(text).absolute(),
        "one file per key, mode 0600, the same on every machine; default: keys/ in the data folder",
    )  # fmt: skip
    web_workers: int = _setting("REVIEWQUEUE_WEB_WORKERS", "2", _count(1, 64), "web processes")
    web_threads: int = _setting("REVIEWQUEUE_WEB_THREADS", "8", _count(1, 256), "threads in each web process")
    job_workers: int = _setting("REVIEWQUEUE_JOB_WORKERS", "2", _count(1, 64), "RQ worker processes")
    callback_allow: tuple[Network, ...] = _setting(
        "REVIEWQUEUE_CALLBACK_ALLOW", "", _networks,
        "CIDRs of in-house receivers that the address guard would otherwise refuse",
    )  # fmt: skip
    callback_deny: tuple[Network, ...] = _setting(
        "REVIEWQUEUE_CALLBACK_DENY", "", _networks,
        "CIDRs no callback may reach, besides all that is not public, the database and Redis",
    )  # fmt: skip
    intake_rate: tuple[float, float] | None = _setting(
        "REVIEWQUEUE_INTAKE_RATE", "500/2000", _rate, "items per second and burst, per backend; 0: no limit"
    )
    queue_cap: int = _setting(
        "REVIEWQUEUE_QUEUE_CAP", "100000", _count(0, 1_000_000_000),
        "reviews that may wait in a queue; more are refused with 503; 0: no cap",
    )  # fmt: skip
    proxy_hops: int = _setting(
        "REVIEWQUEUE_PROXY_HOPS", "0", _count(0, 8),
        "reverse proxies in front whose X-Forwarded-* headers are believed; 0: the headers are ignored",
    )  # fmt: skip
    test_clock: Path | None = _setting(
        "REVIEWQUEUE_TEST_CLOCK", "", lambda text: Path(text).absolute(),
        "a file with the seconds by which the clock is wrong; in the test environment alone",
    )  # fmt: skip
    test_fault: tuple[str, int] | None = _setting(
        "REVIEWQUEUE_TEST_FAULT", "", _fault,
        "fail:N or exit:N, at the N-th statement of each process; in the test environment alone",
    )  # fmt: skip

    @classmethod
    def load(cls, environ: Mapping[str, str]) -> Settings:
        """Read and check every setting; ConfigError names the first one that is unknown or unreadable."""
        known = {f.metadata["name"]: f for f in fields(cls)}
        for name in environ:
            if name.startswith(PREFIX) and name not in known:
                raise ConfigError(f"{name} is not a setting; `python -m reviewqueue settings` lists them")
        values: dict[str, Any] = {}
        for name, f in known.items():
            text = environ.get(name, f.metadata["default"])
            try:
                values[f.name] = f.metadata["parse"](text) if text or f.metadata["default"] else None
            except ValueError as error:
                raise ConfigError(f"{name} {error}; it is {text!r}") from None
        for name in ("callback_allow", "callback_deny"):
            values[name] = values[name] or ()
        data_dir: Path = values["data_dir"]
        values["keys_dir"] = values["keys_dir"] or data_dir / "keys"
        values["database_url"] = values["database_url"] or f"sqlite:///{data_dir / 'reviewqueue.sqlite3'}"
        values["redis_url"] = values["redis_url"] or _embedded_redis(data_dir)
        values["public_url"] = values["public_url"] or f"http://{values['bind']}"
        settings = cls(**values)
        settings._check()
        return settings

    def _check(self) -> None:
        for name, given in (("CLOCK", self.test_clock), ("FAULT", self.test_fault)):
            if given is not None and self.env != "test":
                raise ConfigError(
                    f"REVIEWQUEUE_TEST_{name} is for tests: unset it, or set REVIEWQUEUE_ENV=test"
                )
        if self.env == "production" and not self.public_url.startswith("https://"):
            raise ConfigError(
                f"REVIEWQUEUE_PUBLIC_URL must begin with https:// in production; it is {self.public_url!r}"
            )

    @property
    def embedded_redis(self) -> bool:
        """Whether the supervisor runs Redis itself."""
        return self.redis_url == _embedded_redis(self.data_dir)

    @property
    def secure(self) -> bool:
        """Whether browsers reach us by https."""
        return self.public_url.startswith("https://")

    def key(self, name: str) -> bytes:
        """The 32 bytes of key `name`; ConfigError when missing, readable by others, short or weak."""
        return load_key(self.keys_dir, name)


def _embedded_redis(data_dir: Path) -> str:
    """A unix socket in the data folder; elsewhere when its path would be longer than sockets allow."""
    path = data_dir / "redis" / "redis.sock"
    if len(os.fsencode(path)) > 100:
        digest = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]
        path = Path(tempfile.gettempdir()) / f"reviewqueue-{os.getuid()}-{digest}" / "redis.sock"
    return f"unix://{path}"


@lru_cache(maxsize=100)
def key_path(folder: Path, name: str) -> Path:
    """Where key `name` is kept."""
    return folder / f"{name}.key"


def create_keys(folder: Path) -> list[str]:
    """Make the keys that are missing, never overwriting one; returns the names of those made."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    made = []
    for name in KEY_NAMES:
        scratch = _write_key(folder, name)
        try:
            # A link, unlike a rename, never replaces a key that another process made meanwhile.
            os.link(scratch, key_path(folder, name))
            made.append(name)
        except FileExistsError:
            pass
        finally:
            scratch.unlink(missing_ok=True)
    return made


def rotate_key(folder: Path, name: str) -> Path:
    """Replace key `name` by a new one; returns where the old one is kept."""
    load_key(folder, name)
    old = folder / f"{name}-until-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.key"
    scratch = _write_key(folder, name)
    os.link(key_path(folder, name), old)
    os.replace(scratch, key_path(folder, name))
    return old


def _write_key(folder: Path, name: str) -> Path:
    """A new key in a file of its own, on the disk for good."""
    scratch = folder / f".{name}.{secrets.token_hex(8)}"
    with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(base64.b64encode(secrets.token_bytes(KEY_BYTES)) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    return scratch


_keys: dict[Path, tuple[tuple[int, int, int], bytes]] = {}  # as they were read, while the file is the same


def load_key(folder: Path, name: str) -> bytes:
    """Read one key file and refuse it unless it is private, whole and not made of few symbols."""
    path = key_path(folder, name)
    remedy = "`python -m reviewqueue keys create` makes missing keys"
    try:
        now = path.stat()
        mode, edition = now.st_mode, (now.st_mode, now.st_ino, now.st_mtime_ns)
        known = _keys.get(path)
        if known is not None and known[0] == edition:
            return known[1]
        text = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"key file {path} is missing; {remedy}") from None
    except OSError as error:
        raise ConfigError(f"key file {path} cannot be read: {error.strerror}") from None
    if stat.S_IMODE(mode) & 0o077:
        raise ConfigError(f"key file {path} is readable by others; run: chmod 600 {path}")
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except ValueError:
        raise ConfigError(f"key file {path} is not base64; {remedy} once it is moved away") from None
    if len(key) != KEY_BYTES or len(set(key)) < 12:
        raise ConfigError(
            f"key file {path} must hold {KEY_BYTES} random bytes in base64; {remedy} once it is moved away"
        )
    _keys[path] = edition, key
    return key


def describe() -> list[tuple[str, str, str]]:
    """(name, default, meaning) of every setting."""
    return [(f.metadata["name"], f.metadata["default"], f.metadata["meaning"]) for f in fields(Settings)]


_current: list[Settings] = []


def use(settings: Settings) -> None:
    """Make `settings` those of this process; called by create_app."""
    _current[:] = [settings]


def current() -> Settings:
    """The settings of the running application."""
    if not _current:
        raise RuntimeError("no application has been created")
    return _current[0]
