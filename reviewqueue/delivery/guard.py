"""Which addresses a callback may reach, and the connection to them.

Owns the table of refused networks and the shape of a callback address. It must never connect by name: the
answer of a name server can change between a check and a use, so only an address judged here is connected to.
"""

from __future__ import annotations

import queue
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from reviewqueue.errors import Invalid

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Resolver = Callable[[str], Iterable[str]]

LOOKUP_LIMIT = 5.0  # seconds for one answer of the name servers
CONNECT_LIMIT = 5.0  # seconds for one address, so that a dead one leaves time for the next
FLOOR = 1.0  # seconds a refusal takes at least, so that its speed tells nothing about the inside
PORTS = frozenset({443})

REFUSED = (
    "This address may not be called. It must be https on port 443 of a public host,"
    " or every address of the host must lie in REVIEWQUEUE_CALLBACK_ALLOW."
)


def _table(blocks: str) -> list[Network]:
    return [ip_network(block) for block in blocks.split()]


_DENIED_4 = _table("""
    0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24
    192.31.196.0/24 192.52.193.0/24 192.88.99.0/24 192.168.0.0/16 192.175.48.0/24 198.18.0.0/15
    198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4
""")
# IPv6 is the other way round: what lies outside the one public block is refused without being named.
_PUBLIC_6 = IPv6Network("2000::/3")
_DENIED_6 = _table("2001::/23 2001:db8::/32 2002::/16 3fff::/20")

_URL = re.compile(
    r"(?P<scheme>(?i:https?))://(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*)?(?P<query>\?[A-Za-z0-9._~!$&'()*+,;=:@%/?-]*)?"
)
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9])?")
# Programs disagree on what 0177.1 or 0x7f000001 means; a name ending in a number is no name at all.
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


class Blocked(Exception):
    """The guard refused to connect. Carries no reason: the reason would describe the inside network."""


class Unresolved(Exception):
    """The name has no address, or the name servers did not answer in time."""


@dataclass(frozen=True)
class Target:
    """A callback address taken apart; `host` is a lower-case name or a bare IP address."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def literal(self) -> Address | None:
        """The IP address the host was written as, or None when it is a name."""
        return _address(self.host)

    @property
    def in_house(self) -> bool:
        """Whether only receivers in the allow list may be addressed in this way."""
        return self.scheme != "https" or self.port not in PORTS or self.literal is not None

    @property
    def authority(self) -> str:
        """What stands in the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        usual = {"https": 443, "http": 80}[self.scheme]
        return host if self.port == usual else f"{host}:{self.port}"


def denied(address: str | Address, allow: Sequence[Network] = (), deny: Sequence[Network] = ()) -> bool:
    """Whether `address` may not be called: not public, this machine's own, or in `deny`.

    `allow` re-opens exactly its networks; an IPv6 form that wraps an IPv4 address is re-opened only when
    the address inside may be called too. What is no address is denied.
    """
    ip = _address(str(address))
    if ip is None:
        return True
    if opened(ip, allow):
        return False
    if _within(ip, deny):
        return True
    if isinstance(ip, IPv4Address):
        return _within(ip, _DENIED_4) or _own(ip)
    return ip not in _PUBLIC_6 or _within(ip, _DENIED_6) or bool(_wrapped(ip)) or _own(ip)


def opened(address: Address, allow: Sequence[Network]) -> bool:
    """Whether the allow list re-opens `address`; a public address is not opened, only not denied."""
    if not _within(address, allow):
        return False
    return isinstance(address, IPv4Address) or not any(denied(inner, allow) for inner in _wrapped(address))


def parse(url: str) -> Target:
    """Take a callback address apart, or raise Invalid. Asks no name server; judges the spelling alone."""
    match = _URL.fullmatch(url) if len(url) <= 2048 else None
    if match is None:
        raise Invalid(
            "A callback address is https://host/path in plain ASCII, without user name, fragment or spaces.",
            field="callback",
        )
    scheme, host = match["scheme"].lower(), match["host"].lower().strip("[]")
    port = int(match["port"] or (443 if scheme == "https" else 80))
    if not (1 <= port <= 65535 and (_address(host) or _is_name(host))):
        raise Invalid("The host or port of the callback address cannot be read.", field="callback")
    return Target(scheme, host, port, (match["path"] or "/") + (match["query"] or ""))


def lookup(host: str) -> list[str]:
    """Every address the operating system knows for `host`; raises OSError when there is none."""
    return [str(found[4][0]) for found in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]


def check_url(
    url: str,
    allow: Sequence[Network] = (),
    resolve: Resolver = lookup,
    *,
    deny: Sequence[Network] = (),
    floor: float = FLOOR,
) -> Target:
    """Judge a callback address at registration; raises Invalid when it may not be called.

    A name without an address and a name with a refused one are told apart to nobody, neither by the message
    nor within `floor` seconds. Passing here permits nothing later: `connect` judges again.
    """
    started = time.monotonic()
    target = parse(url)
    try:
        judge(target, allow, deny, resolve)
    except (Blocked, Unresolved):
        hold(started, floor)
        raise Invalid(REFUSED, field="callback") from None
    return target


def judge(
    target: Target,
    allow: Sequence[Network],
    deny: Sequence[Network],
    resolve: Resolver,
    limit: float = LOOKUP_LIMIT,
) -> list[Address]:
    """Every address of `target`, all of which may be called; one that may not refuses them all.

    Raises Blocked, or Unresolved after at most `limit` seconds.
    """
    found = [target.host] if target.literal else ask(resolve, target.host, limit)
    judged = []
    for text in found:
        address = _address(text)
        if address is None or denied(address, allow, deny):
            raise Blocked
        if target.in_house and not opened(address, allow):
            raise Blocked
        judged.append(address)
    return list(dict.fromkeys(judged))


def connect(
    target: Target,
    allow: Sequence[Network],
    deny: Sequence[Network],
    resolve: Resolver,
    left: Callable[[], float],
) -> socket.socket:
    """A TCP connection to one of the target's judged addresses (the first four are tried, in order).

    `left` tells the seconds that remain and raises when there are none. Raises Blocked, Unresolved, or the
    OSError of the last address tried.
    """
    trouble: OSError = ConnectionRefusedError()
    for address in judge(target, allow, deny, resolve, min(LOOKUP_LIMIT, left()))[:4]:
        sock = socket.socket(_family(address), socket.SOCK_STREAM)
        try:
            sock.settimeout(min(CONNECT_LIMIT, left()))
            sock.connect((str(address), target.port))
            if _address(sock.getpeername()[0]) != address:
                raise Blocked
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
        except OSError as error:
            sock.close()
            trouble = error
        except BaseException:
            sock.close()
            raise
    raise trouble


def hold(started: float, floor: float) -> None:
    """Wait until `floor` seconds have passed since `started` (monotonic)."""
    time.sleep(max(0.0, started + floor - time.monotonic()))


def ask(resolve: Resolver, host: str, limit: float = LOOKUP_LIMIT) -> list[str]:
    """The resolver's answer within `limit` seconds, or Unresolved; a system lookup has no time limit."""
    answer: queue.SimpleQueue[list[str]] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answer.put(list(resolve(host)))
        except (OSError, UnicodeError):
            answer.put([])

    threading.Thread(target=ask, name="callback-lookup", daemon=True).start()
    try:
        found = answer.get(timeout=limit)
    except queue.Empty:
        found = []
    if not found:
        raise Unresolved
    return found


def _address(text: str) -> Address | None:
    try:
        return None if "%" in text else ip_address(text)
    except ValueError:
        return None


def _is_name(host: str) -> bool:
    labels = host.split(".")
    return len(host) <= 253 and all(map(_LABEL.fullmatch, labels)) and not _NUMBER.fullmatch(labels[-1])


def _within(address: Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks)


def _wrapped(address: IPv6Address) -> list[IPv4Address]:
    """The IPv4 addresses a gateway or tunnel would read out of an IPv6 one.

    Forms: RFC 4291 mapped and compatible, 2765 translated, 6052 and 8215 NAT64, 3056 6to4, 4380 Teredo,
    5214 ISATAP.
    """
    number = int(address)
    low = number & 0xFFFFFFFF
    found = []
    if number >> 32 in (0xFFFF, 0xFFFF0000, 0x64FF9B << 64) or number >> 80 == 0x64FF9B0001:
        found.append(low)
    if number >> 32 == 0 and number > 1:  # :: and ::1 are addresses in their own right
        found.append(low)
    if number >> 112 == 0x2002:
        found.append(number >> 80 & 0xFFFFFFFF)
    if number >> 96 == 0x20010000:
        found += [number >> 64 & 0xFFFFFFFF, low ^ 0xFFFFFFFF]
    if number >> 32 & 0xFCFFFFFF == 0x5EFE:
        found.append(low)
    return [IPv4Address(inner) for inner in found]


def _family(address: Address) -> socket.AddressFamily:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def _own(address: Address) -> bool:
    """Whether the address is one of this machine's: the system binds a socket to no other.

    Where it does (`ip_nonlocal_bind`), the route to the address tells: to itself a machine speaks from it.
    """
    anyone = "240.0.0.1" if address.version == 4 else "100::1"
    if not _binds(address, str(address)):
        return False
    if not _binds(address, anyone):
        return True
    with socket.socket(_family(address), socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((str(address), 9))  # a datagram socket sends nothing by connecting
        except OSError:
            return False
        return _address(probe.getsockname()[0]) == address


def _binds(like: Address, host: str) -> bool:
    try:
        with socket.socket(_family(like), socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))
    except OSError:
        return False
    return True
