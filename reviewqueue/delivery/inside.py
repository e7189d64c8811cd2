"""Addresses of our own parts, which no callback may reach: the database, Redis, and what the operator lists.

Only REVIEWQUEUE_CALLBACK_ALLOW re-opens one. A name that cannot be looked up must not open anything: what was
known of it stays in force.
"""

from __future__ import annotations

import time
from contextlib import suppress
from ipaddress import ip_network
from urllib.parse import urlsplit

from sqlalchemy.engine import make_url

from reviewqueue.config import Settings
from reviewqueue.delivery import guard

KEPT_SECONDS = 60.0

_known: dict[str, tuple[float, tuple[guard.Network, ...]]] = {}


def inside(settings: Settings, resolve: guard.Resolver = guard.lookup) -> tuple[guard.Network, ...]:
    """What to deny besides the guard's own table; names are looked up at most once a minute."""
    found = [network for host in _hosts(settings) for network in _addresses(host, resolve)]
    return (*settings.callback_deny, *found)


def _hosts(settings: Settings) -> list[str]:
    """The hosts of the database (libpq takes several, in the address or as parameters) and of Redis."""
    url = make_url(settings.database_url)
    given = [
        url.host,
        *(url.query.get(name) for name in ("host", "hostaddr")),
        urlsplit(settings.redis_url).hostname,
    ]
    texts = [text for each in given if each for text in ([each] if isinstance(each, str) else each)]
    hosts = [host.strip("[]") for text in texts for host in text.split(",")]
    return [host for host in dict.fromkeys(hosts) if host and not host.startswith(("/", "@"))]


def _addresses(host: str, resolve: guard.Resolver) -> tuple[guard.Network, ...]:
    looked, networks = _known.get(host, (0.0, ()))
    if not looked or time.monotonic() - looked > KEPT_SECONDS:
        with suppress(guard.Unresolved, ValueError):
            networks = tuple(ip_network(text.partition("%")[0]) for text in guard.ask(resolve, host))
        _known[host] = time.monotonic(), networks
    return networks
