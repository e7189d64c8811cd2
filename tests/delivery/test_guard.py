"""What may be called and what may not, judged with a listener that must never be reached."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from reviewqueue.config import Settings
from reviewqueue.delivery import callback, guard, inside
from reviewqueue.errors import Invalid
from tests.receiver import receiver

PUBLIC = "93.184.216.34"
PUBLIC_6 = "2606:2800:220:1::1946"
LOOPBACK = [ip_network("127.0.0.0/8")]


class Canary:
    """Listens on every address of this machine and counts who comes."""

    def __init__(self) -> None:
        self.sock = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        self.port: int = self.sock.getsockname()[1]
        self.visits = 0
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                visitor = self.sock.accept()[0]
            except OSError:
                return
            self.visits += 1
            visitor.close()


@pytest.fixture(scope="module")
def canary() -> Iterator[Canary]:
    listener = Canary()
    yield listener
    listener.sock.shutdown(socket.SHUT_RDWR)
    listener.sock.close()


@pytest.fixture
def open_port(canary: Canary, monkeypatch: pytest.MonkeyPatch) -> Canary:
    """The canary's port counts as an https port, so that only the address table stands before it."""
    monkeypatch.setattr(guard, "PORTS", frozenset({443, canary.port}))
    return canary


def names(*addresses: str) -> guard.Resolver:
    return lambda host: addresses


def minute() -> float:
    return 60.0


def connect(port: int, *addresses: str, allow: list[guard.Network] | None = None) -> socket.socket:
    target = guard.Target("https", "receiver.example", port, "/")
    return guard.connect(target, allow or [], [], names(*addresses), minute)


def words(text: str) -> list[str]:
    return text.split()


# First and last address of each refused block of the specification.
EDGES = words("""
0.0.0.0 0.255.255.255 10.0.0.0 10.255.255.255 100.64.0.0 100.127.255.255 127.0.0.0 127.0.0.1
127.255.255.255 169.254.0.0 169.254.169.254 169.254.255.255 172.16.0.0 172.31.255.255 192.0.0.0
192.0.0.255 192.0.2.0 192.0.2.255 192.31.196.0 192.31.196.255 192.52.193.0 192.52.193.255 192.88.99.0
192.88.99.255 192.168.0.0 192.168.255.255 192.175.48.0 192.175.48.255 198.18.0.0 198.19.255.255
198.51.100.0 198.51.100.255 203.0.113.0 203.0.113.255 224.0.0.0 239.255.255.255 240.0.0.0
255.255.255.254 255.255.255.255 :: ::1 ::2 ::127.0.0.1 ::10.0.0.1 ::8.8.8.8 ::ffff:127.0.0.1
::ffff:7f00:1 ::ffff:10.1.2.3 ::ffff:169.254.169.254 ::ffff:8.8.8.8 ::ffff:0:127.0.0.1
64:ff9b::127.0.0.1 64:ff9b::8.8.8.8 64:ff9b::a9fe:a9fe 64:ff9b:1::1 64:ff9b:1:7f00:0:100:: 100::1
100:0:0:1::1 5f00::1 fc00::1 fd00::1 fdff:ffff::1 fe80::1 febf::1 fec0::1 feff::1 ff00::1 ff02::1
ff0e::1 2001::1 2001:0:7f00:1::1 2001:0:4136:e378:8000:63bf:80ff:fffe 2001:10::1 2001:20::1
2001:1ff:ffff::1 2001:db8::1 2001:db8:ffff::1 2002:7f00:1::1 2002:a9fe:a9fe::1 2002:808:808::1 3fff::1
3fff:fff:ffff::1 4000::1 1fff:ffff::1 8000::1 2606:4700::5efe:127.0.0.1 2606:4700::200:5efe:10.0.0.1
2606:4700::5efe:8.8.8.8 2606:4700::100:5efe:8.8.8.8 2606:4700::300:5efe:8.8.8.8 fe80::1%lo fe80::1%1
""")

# Spellings that are no address at all and must not become one.
NONSENSE = words("""
0x7f.1 2130706433 017700000001 127.1 0177.0.0.1 127.0.0.1. 127.0.0.01 1.2.3 1.2.3.4.5 [::1]
::ffff:127.0.0.1/96 localhost 127.0.0.1:80 ::1%25lo ١٢٧.٠.٠.١ １２７.０.０.１
""")

PASSES = words("""
1.0.0.0 8.8.8.8 9.255.255.255 11.0.0.0 93.184.216.34 100.63.255.255 100.128.0.0 126.255.255.255
128.0.0.0 169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 192.0.1.0 192.0.3.0 192.88.98.255
192.88.100.0 192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0 198.51.99.255 203.0.114.0
223.255.255.255 2000::1 2001:200::1 2001:db7::1 2001:db9::1 2003::1 2606:2800:220:1::1946
2a00:1450:4001::200e 3ffe::1 3fff:1000::1 2606:4700::5eff:8.8.8.8
""")


@pytest.mark.parametrize("address", EDGES + NONSENSE)
def test_denied_refuses_reserved_addresses_and_every_wrapped_form(address: str) -> None:
    assert guard.denied(address)


@pytest.mark.parametrize("address", PASSES)
def test_denied_lets_public_addresses_pass(address: str) -> None:
    assert not guard.denied(address)


@pytest.mark.parametrize("address", EDGES)
def test_connect_never_reaches_the_canary_by_a_refused_address(address: str, open_port: Canary) -> None:
    before = open_port.visits
    with pytest.raises(guard.Blocked):
        connect(open_port.port, address)
    assert open_port.visits == before


def test_connect_reaches_the_canary_once_its_address_is_allowed(open_port: Canary) -> None:
    before = open_port.visits
    with connect(open_port.port, "127.0.0.1", allow=LOOPBACK) as sock:
        assert sock.recv(1) == b""
    assert open_port.visits == before + 1


@given(st.ip_addresses(v=4))
@example(IPv4Address("8.8.8.8"))
def test_denied_refuses_any_ipv4_address_wrapped_in_ipv6(inner: IPv4Address) -> None:
    low = int(inner)
    wrapped = [
        low,
        0xFFFF << 32 | low,
        0xFFFF0000 << 32 | low,
        0x64FF9B << 96 | low,
        0x64FF9B0001 << 80 | low,
        0x2002 << 112 | low << 80 | 1,
        0x20010000 << 96 | low << 64 | 1,
        0x20010000 << 96 | (low ^ 0xFFFFFFFF),
        0x2606 << 112 | 0x5EFE << 32 | low,
        0x2606 << 112 | 0x02005EFE << 32 | low,
    ]
    assert all(guard.denied(IPv6Address(number)) for number in wrapped)


def test_denied_refuses_the_machines_own_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    # Without the table, only being this machine's own is left as a reason.
    monkeypatch.setattr(guard, "_DENIED_4", [])
    assert guard.denied("127.0.0.1")
    assert guard.denied("127.8.9.10")
    assert not guard.denied("10.255.254.253")


def test_denied_by_the_route_where_any_address_can_be_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "bind", lambda self, address: None)
    monkeypatch.setattr(guard, "_DENIED_4", [])
    assert guard.denied("127.0.0.1")
    assert not guard.denied(PUBLIC)


def test_denied_refuses_what_the_caller_lists() -> None:
    assert not guard.denied(PUBLIC)
    assert guard.denied(PUBLIC, deny=[ip_network(f"{PUBLIC}/32")])
    assert not guard.denied("93.184.216.35", deny=[ip_network(f"{PUBLIC}/32")])


def test_allow_reopens_exactly_its_networks() -> None:
    allow = [ip_network("10.1.2.0/24"), ip_network("::1/128"), ip_network("fd00:1::/32")]
    assert not guard.denied("10.1.2.0", allow)
    assert not guard.denied("10.1.2.255", allow)
    assert not guard.denied("::1", allow)
    assert not guard.denied("fd00:1::7", allow)
    assert guard.denied("10.1.1.255", allow)
    assert guard.denied("10.1.3.0", allow)
    assert guard.denied("127.0.0.1", allow)
    assert guard.denied("fd00:2::1", allow)
    assert guard.denied("::ffff:10.1.2.3", allow)


def test_allow_reopens_a_wrapped_form_only_with_the_address_inside() -> None:
    nat64 = [ip_network("64:ff9b::/96")]
    assert not guard.denied("64:ff9b::8.8.8.8", nat64)
    assert guard.denied("64:ff9b::127.0.0.1", nat64)
    assert not guard.denied("64:ff9b::127.0.0.1", nat64 + LOOPBACK)
    assert guard.denied("::ffff:127.0.0.1", [ip_network("::/0")])
    assert guard.denied("fd00::5efe:10.0.0.1", [ip_network("fd00::/8")])


URLS_REFUSED = [
    *words("""
http://receiver.example/ https://receiver.example:8443/ https://receiver.example:80/
https://receiver.example:0/ https://receiver.example:65536/ https://receiver.example:99999/
https://receiver.example:/ https://receiver.example:443x/ https://receiver.example:+443/
https://receiver.example:٤٤٣/ ftp://receiver.example/ file:///etc/passwd gopher://receiver.example/
unix:///run/redis.sock data:text/plain,x javascript:alert(1) //receiver.example/ receiver.example /hook
https:receiver.example https:/receiver.example https:///receiver.example https://:443/ https://
https://? https://user@receiver.example/ https://user:pass@receiver.example/ https://@receiver.example/
https://receiver.example@127.0.0.1/ https://receiver.example:443@127.0.0.1/
https://receiver.example#@127.0.0.1/ https://receiver.example/#x https://receiver.example\\@127.0.0.1/
https://127.0.0.1\\@receiver.example/ https:\\\\receiver.example/ https://receiver.example/\\x
https://receiver.example./ https://receiver..example/ https://.receiver.example/
https://receiver.example%00.evil.example/ https://receiver%2eexample/ https://%31%32%37.0.0.1/
https://127.0.0.1%2f/ https://-receiver.example/ https://receiver-.example/ https://münchen.example/
https://receiver。example/ https://１２７.０.０.１/ https://①②⑦.⓪.⓪.①/ https://１27.1/ https://127.0.0.1/
https://127.0.0.1:443/ https://127.1/ https://127.0.1/ https://0/ https://0.0.0.0/ https://0x7f.1/
https://0x7f000001/ https://0X7F.0.0.1/ https://2130706433/ https://017700000001/ https://0177.0.0.1/
https://127.0.0.1./ https://127.0.0.0x1/ https://1.2.3.4.5/ https://receiver.1/ https://receiver.0x1/
https://receiver.0x/ https://4294967297/ https://8.8.8.8/ https://93.184.216.34/ https://[::]/
https://[::1]/ https://[::1]:443/ https://[::ffff:127.0.0.1]/ https://[::ffff:7f00:1]/
https://[::127.0.0.1]/ https://[64:ff9b::7f00:1]/ https://[2002:7f00:1::]/
https://[2606:2800:220:1::1946]/ https://[fe80::1%25lo]/ https://[fe80::1%lo]/ https://[v1.x]/
https://[::1/ https://::1/ https://[]/ https://[127.0.0.1]/ https://169.254.169.254/latest/meta-data/
https://0xa9fea9fe/ https://2852039166/ https://local.example/ https://localhost/
https://inside.example/ https://mixed.example/ https://mapped.example/ https://nat64.example/
https://isatap.example/ https://zone.example/ https://nonsense.example/ https://nowhere.example/
http://127.0.0.1:{port}/ http://localhost:{port}/ https://127.0.0.1:{port}/ http://[::1]:{port}/
http://receiver.example:{port}/ http://0.0.0.0:{port}/ http://[::ffff:127.0.0.1]:{port}/
http://127.1:{port}/ http://2130706433:{port}/ http://0x7f.1:{port}/ http://local.example:{port}/
https://local.example:{port}/ http://receiver.example:443@127.0.0.1:{port}/ http://0:{port}/
"""),
    "",
    " ",
    " https://receiver.example/",
    "https://receiver.example/ ",
    "https://receiver.example/\n",
    "https://receiver .example/",
    "https://receiver.example/a b",
    "https://receiver.example\t/",
    "https://receiver.example/\r\nHost: inside",
    "https://receiver\0.example/",
    "https://receiver.example/\0",
    "https://receiver.example\x7f/",
    "https://receiver\u00ad.example/",
    "https://receiver\u200b.example/",
    "\ufeffhttps://receiver.example/",
    "https://" + "a" * 64 + ".example/",
    "https://" + "a." * 127 + "example/",
    "https://receiver.example/" + "a" * 2048,
]


BOOK = {
    "receiver.example": [PUBLIC],
    "local.example": ["127.0.0.1"],
    "localhost": ["127.0.0.1", "::1"],
    "inside.example": ["10.0.0.7"],
    "mixed.example": [PUBLIC, PUBLIC_6, "10.0.0.7"],
    "mapped.example": ["::ffff:127.0.0.1"],
    "nat64.example": ["64:ff9b::7f00:1"],
    "isatap.example": ["2606:4700::5efe:7f00:1"],
    "zone.example": ["fe80::1%lo"],
    "nonsense.example": ["0x7f.1"],
}


def look_in_book(host: str) -> list[str]:
    try:
        return BOOK[host]
    except KeyError:
        return guard.lookup(host) if host[-1].isdigit() else []


@pytest.mark.parametrize("url", URLS_REFUSED)
def test_check_url_and_send_refuse_every_trick_and_never_reach_the_canary(
    url: str, open_port: Canary
) -> None:
    url, before = url.replace("{port}", str(open_port.port)), open_port.visits
    with pytest.raises(Invalid) as refusal:
        guard.check_url(url, resolve=look_in_book, floor=0)
    assert refusal.value.errors[0]["pointer"] == "callback"
    answer = callback.send(url, {}, b"{}", resolver=look_in_book, deadline=2, floor=0)
    assert answer.outcome == ("dns" if "nowhere.example" in url else "blocked")
    assert answer.peer is None
    assert open_port.visits == before


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://receiver.example", guard.Target("https", "receiver.example", 443, "/")),
        ("HTTPS://Receiver.Example:443/", guard.Target("https", "receiver.example", 443, "/")),
        (
            "https://receiver.example/a/%2e%2e?b=c&d=@:x",
            guard.Target("https", "receiver.example", 443, "/a/%2e%2e?b=c&d=@:x"),
        ),
        ("https://receiver.example?b", guard.Target("https", "receiver.example", 443, "/?b")),
    ],
)
def test_check_url_takes_a_public_https_address(url: str, target: guard.Target) -> None:
    assert guard.check_url(url, resolve=look_in_book, floor=0) == target


@pytest.mark.parametrize(
    ("url", "authority"),
    [
        ("http://127.0.0.1:9000/hook", "127.0.0.1:9000"),
        ("http://local.example/", "local.example"),
        ("https://127.0.0.1/", "127.0.0.1"),
        ("https://127.0.0.1:8443/", "127.0.0.1:8443"),
        ("http://[::1]:9000/", "[::1]:9000"),
        ("http://localhost:9000/", "localhost:9000"),
    ],
)
def test_check_url_takes_plain_http_and_any_port_inside_the_allow_list(url: str, authority: str) -> None:
    allow = [*LOOPBACK, ip_network("::1/128")]
    assert guard.check_url(url, allow, look_in_book, floor=0).authority == authority


def test_check_url_wants_every_address_in_the_allow_list_for_plain_http() -> None:
    both = names("127.0.0.1", PUBLIC)
    with pytest.raises(Invalid):
        guard.check_url("http://both.example/", LOOPBACK, both, floor=0)
    assert guard.check_url("https://both.example/", LOOPBACK, both, floor=0).port == 443


def test_check_url_tells_a_missing_name_and_a_refused_one_apart_to_nobody() -> None:
    told = []
    for host in ("inside.example", "nowhere.example"):
        started = time.monotonic()
        with pytest.raises(Invalid) as refusal:
            guard.check_url(f"https://{host}/", resolve=look_in_book, floor=0.3)
        assert 0.3 <= time.monotonic() - started < 1.3
        told.append((refusal.value.message, refusal.value.code, refusal.value.errors))
    assert told[0] == told[1]


def test_check_url_gives_up_on_a_silent_name_server(monkeypatch: pytest.MonkeyPatch) -> None:
    awake = threading.Event()

    def silent(host: str) -> list[str]:
        awake.wait(10)
        return [PUBLIC]

    target, started = guard.parse("https://receiver.example/"), time.monotonic()
    with pytest.raises(guard.Unresolved):
        guard.judge(target, [], [], silent, limit=0.2)
    assert time.monotonic() - started < 2
    awake.set()


@pytest.mark.parametrize("position", [0, 1, 2])
def test_connect_refuses_all_when_one_answer_is_refused(position: int, open_port: Canary) -> None:
    answers = ["127.0.0.1", "127.0.0.1"]
    answers.insert(position, "10.0.0.7")
    before = open_port.visits
    with pytest.raises(guard.Blocked):
        connect(open_port.port, *answers, allow=LOOPBACK)
    assert open_port.visits == before


def test_connect_judges_again_when_the_name_moved_after_registration(open_port: Canary) -> None:
    answers = iter([[PUBLIC], ["127.0.0.1"], [PUBLIC, "127.0.0.1"]])

    def rebinding(host: str) -> list[str]:
        return next(answers)

    before = open_port.visits
    target = guard.check_url(f"https://rebind.example:{open_port.port}/", resolve=rebinding, floor=0)
    for _ in range(2):
        with pytest.raises(guard.Blocked):
            guard.connect(target, [], [], rebinding, minute)
    assert open_port.visits == before


def test_connect_refuses_a_peer_that_is_not_the_judged_address(
    open_port: Canary, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A socket that a transparent proxy, say, answers in another's name.
    monkeypatch.setattr(socket.socket, "getpeername", lambda self: ("10.0.0.7", 443))
    with pytest.raises(guard.Blocked):
        connect(open_port.port, "127.0.0.1", allow=LOOPBACK)


def test_connect_goes_on_to_the_next_address(open_port: Canary) -> None:
    only = socket.create_server(("127.0.0.2", 0))
    target = guard.Target("http", "two.example", only.getsockname()[1], "/")
    with only, guard.connect(target, LOOPBACK, [], names("127.0.0.3", "127.0.0.2"), minute) as sock:
        assert sock.getpeername()[0] == "127.0.0.2"


@given(st.text(max_size=60))
@example("https://receiver.example/")
def test_parse_takes_nothing_that_is_not_plain_ascii(text: str) -> None:
    try:
        target = guard.parse(text)
    except Invalid:
        return
    assert text.isascii()
    assert text.isprintable()
    assert target.authority.partition(":")[0] in text.lower()


# --- redirects and names that lead inside -----------------------------------------------------------

ALONG = words("""
http://127.0.0.1:{port}/ https://127.0.0.1:{port}/ //127.0.0.1:{port}/ http://localhost:{port}/
http://[::1]:{port}/ http://[::ffff:127.0.0.1]:{port}/ http://0.0.0.0:{port}/ http://127.1:{port}/
http://2130706433:{port}/ http://0x7f.1:{port}/ http://user@127.0.0.1:{port}/ \\\\127.0.0.1:{port}\\
http:127.0.0.1:{port} /inside ftp://127.0.0.1:{port}/
""")
REDIRECTS = [(status, where) for status in (300, 301, 302, 303, 305, 307, 308) for where in ALONG]


@pytest.mark.parametrize(("status", "where"), REDIRECTS)
def test_send_follows_no_redirect_to_the_canary(status: int, where: str, canary: Canary) -> None:
    before = canary.visits
    with receiver() as running:
        location = where.replace("{port}", str(canary.port))
        running.says(status, b"", location=location, refresh=f"0; url={location}", content_location=location)
        answer = callback.send(running.url, {}, b"{}", LOOPBACK, deadline=5)
        assert answer.outcome == "redirect"
        assert len(running.heard) == 1
    assert canary.visits == before


@pytest.mark.parametrize("address", EDGES)
def test_send_never_reaches_the_canary_by_a_name_that_moves_inside(address: str, open_port: Canary) -> None:
    before = open_port.visits
    answers = iter([[PUBLIC], [address], [PUBLIC, address], [address, PUBLIC]])

    def rebinding(host: str) -> list[str]:
        return next(answers)

    url = f"https://rebind.example:{open_port.port}/"
    guard.check_url(url, resolve=rebinding, floor=0)
    for _ in range(3):
        answer = callback.send(url, {}, b"{}", resolver=rebinding, deadline=2, floor=0)
        assert (answer.outcome, answer.peer) == ("blocked", None)
    assert open_port.visits == before


def test_the_tricks_above_are_three_hundred_and_each_is_another() -> None:
    tricks = (
        {*URLS_REFUSED} | {("redirect", *each) for each in REDIRECTS} | {("name", each) for each in EDGES}
    )
    assert len(tricks) >= 300


# --- our own parts --------------------------------------------------------------------------------


def parts(tmp_path: Path, **given: str) -> Settings:
    return Settings.load({"REVIEWQUEUE_ENV": "test", "REVIEWQUEUE_DATA_DIR": str(tmp_path), **given})


@pytest.mark.parametrize(
    "given",
    [
        {"REDIS_URL": "redis://:secret@redis.example:6379/0"},
        {"DATABASE_URL": "postgresql://rq@redis.example:5432/rq"},
        {"DATABASE_URL": "postgresql://rq@/rq?host=redis.example,other.example"},
        {"DATABASE_URL": f"postgresql://rq@/rq?hostaddr={PUBLIC}&host=x.example"},
        {"REVIEWQUEUE_CALLBACK_DENY": f"{PUBLIC}/32,198.18.0.0/15"},
    ],
)
def test_inside_denies_the_database_redis_and_what_the_operator_lists(
    given: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inside, "_known", {})
    book = {"redis.example": [PUBLIC, PUBLIC_6], PUBLIC: [PUBLIC]}
    deny = inside.inside(parts(tmp_path, **given), lambda host: book.get(host, []))
    assert guard.denied(PUBLIC, deny=deny)
    assert not guard.denied("93.184.216.35", deny=deny)
    assert not guard.denied(PUBLIC, allow=[ip_network(f"{PUBLIC}/32")], deny=deny)


def test_inside_keeps_what_it_knew_while_names_cannot_be_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inside, "_known", {})
    settings = parts(tmp_path, REDIS_URL="redis://redis.example/0")
    known = inside.inside(settings, names(PUBLIC))
    monkeypatch.setattr(inside, "KEPT_SECONDS", 0.0)
    assert inside.inside(settings, names()) == known != ()


def test_inside_has_nothing_to_deny_of_sockets_and_files(tmp_path: Path) -> None:
    assert inside.inside(parts(tmp_path)) == ()
    assert inside.inside(parts(tmp_path, DATABASE_URL="postgresql://rq@/rq?host=/run/postgresql")) == ()
