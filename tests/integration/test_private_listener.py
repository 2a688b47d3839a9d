"""No row has the kit talk to a private address, however it is spelled: listeners there count who comes.

Every trick is played as the link of a row, and as where an origin that may be fetched from redirects to, with `CBK_ALLOWED_HOSTS`
and without it. Where this process may have a network namespace, all of the addresses are real ones of this machine, in both
families; otherwise those of the loopback interface are. The system's own resolver and its sockets do the work; only names of the
internet, which are not there, get their answers from a table, as a DNS server in hostile hands would give them.
"""

import ctypes
import os
import shutil
import socket
import subprocess
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from cbk.edges.download import Downloader, connector
from cbk.edges.download.dns_resolver import DnsResolver
from cbk.errors import DownloadError
from cbk.model import VersionState
from cbk.rules.backup.links import AllowedHosts
from tests.in_process_site import InProcessSite, version_of_row
from tests.origin import Origin, cut, redirect, serve, until_close

CLONE_NEWNET = 0x40000000  # unshare(2)
PUBLIC = "93.184.216.34"
# What stands for other networks; all of them lead to the same listener, were they connected to.
ADDRESSES = (
    "10.99.7.7",
    "172.16.0.9",
    "192.168.77.1",
    "169.254.169.254",
    "100.100.100.200",
    "168.63.129.16",
    "198.18.0.7",
    "fd00::7",
    "fd00:ec2::254",
    "fec0::7",
    "::127.0.0.2",
    "2002:7f00:1::1",
    "2002:a63:707::1",
    "64:ff9b::7f00:1",
    "64:ff9b::a63:707",
    "64:ff9b:1::7",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:db8::7",
)
# What the system's own resolver takes for an address of this machine: without a guard, these come through.
LOOSE = (
    "127.0.0.1",
    "127.1",
    "127.0.1",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "0x7f.0x0.0x0.0x1",
    "0177.0.0.1",
    "017700000001",
    "127.0.0.01",
    "0",
    "0.0.0.0",
    "127.255.255.254",
    "localhost",
    "LocalHost",
    "::",
    "::1",
    "0:0:0:0:0:0:0:1",
    "::ffff:127.0.0.1",
    "::ffff:7f00:1",
)
HOSTS = (
    *(f"[{host}]" if ":" in host else host for host in (*LOOSE, *ADDRESSES)),
    "127.0.0.1.",
    "localhost.",
    "a.localhost",
    "%31%32%37.0.0.1",
    "[::1%lo]",
    "[::1%25lo]",
    "[fe80::7%lo]",
    "[fe80::7%25lo]",
    "[::ffff:169.254.169.254]",
    "[::ffff:0:127.0.0.1]",
    "[127.0.0.1]",
    "127\u30020\u30020\u30021",
    "127.0.0.\uff11",
    "\uff11\uff12\uff17.\uff10.\uff10.\uff11",
    "\u2460\u2461\u2466.\u24ea.\u24ea.\u2460",
    "\uff4cocalhost",
    "l\u00adocalhost",
    "\u24db\u24de\u24d2\u24d0\u24db\u24d7\u24de\u24e2\u24e3",
    "localhost\uff0e",
    "files.example.com@127.0.0.1",
    "files.example.com:443@127.0.0.1",
    "files.example.com%40127.0.0.1",
    "files.example.com%00.127.0.0.1",
    # Names, with what is answered for them below.
    "nas",
    "nas.local",
    "metadata.google.internal",
    "v4.private.example",
    "v6.private.example",
    "mapped.private.example",
    "nat64.private.example",
    "lan.private.example",
    "metadata.private.example",
    "mixed.private.example",
    "mixed6.private.example",
    "zero.private.example",
    "internal-nas.example.com",
)
WHOLE = (
    "https:127.0.0.1:{port}/secret",
    "https:/127.0.0.1:{port}/secret",
    "https:///127.0.0.1:{port}/secret",
    "//127.0.0.1:{port}/secret",
    "HTTPS://127.0.0.1:{port}/secret",
    "https://127.0.0.1:{port}#@files.example.com/secret",
    "https://127.0.0.1:{port}?@files.example.com/secret",
    "https://127.0.0.1:{port}\\@files.example.com/secret",
    "https://files.example.com\\@127.0.0.1:{port}/secret",
    "https://files.example.com:443\\@127.0.0.1:{port}/secret",
    "https://127.0.0.1:{port};files.example.com/secret",
    "https://files.example.com@@127.0.0.1:{port}/secret",
    "https://[files.example.com]@127.0.0.1:{port}/secret",
    "https://[::1]:{port}@files.example.com:0/secret",
    "https://127.0.0.1:0{port}/secret",
    "https://127.0.0.1:\uff11{port}/secret",
    " https://127.0.0.1:{port}/secret",
    "ht\ttps://127.0.0.1:{port}/secret",
    "https://127.0.\t0.1:{port}/secret",
    "https://files.example.com\r\nHost: 127.0.0.1:{port}\r\n\r\n/secret",
    "http://127.0.0.1:{port}/secret",
    "http://[::1]:{port}/secret",
    "http://v4.private.example:{port}/secret",
    "ftp://127.0.0.1:{port}/secret",
    "gopher://127.0.0.1:{port}/_secret",
    "ws://127.0.0.1:{port}/secret",
    "s3://127.0.0.1:{port}/secret",
    "file://127.0.0.1:{port}/secret",
    "jar:https://127.0.0.1:{port}/secret",
    "url:https://127.0.0.1:{port}/secret",
)
LINKS = (*(f"https://{host}:{{port}}/secret" for host in HOSTS), *WHOLE)
ANSWERS = {
    "files.example.com": [PUBLIC],
    "other.example.com": [PUBLIC],
    "internal-nas.example.com": ["192.168.77.1"],
    "nas": ["10.99.7.7"],
    "nas.local": ["10.99.7.7"],
    "a.localhost": ["127.0.0.1"],
    "metadata.google.internal": ["169.254.169.254"],
    "v4.private.example": ["127.0.0.1"],
    "v6.private.example": ["::1"],
    "mapped.private.example": ["::ffff:127.0.0.1"],
    "nat64.private.example": ["64:ff9b::7f00:1"],
    "lan.private.example": ["192.168.77.1", "fd00::7"],
    "metadata.private.example": ["fd00:ec2::254"],
    "mixed.private.example": [PUBLIC, "127.0.0.1"],
    "mixed6.private.example": ["::1", PUBLIC],
    "zero.private.example": ["0.0.0.0"],
}


class Listener:
    """Takes every connection on its port, of either family, counts it and hangs up."""

    def __init__(self):
        self._socket = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=128)
        self.port = self._socket.getsockname()[1]
        self._came = []
        self._news = threading.Condition()
        threading.Thread(target=self._take, daemon=True).start()

    def _take(self):
        with suppress(OSError):
            while True:
                sock, peer = self._socket.accept()
                with self._news:
                    self._came.append(peer[1])
                    self._news.notify_all()
                sock.close()

    def visits(self):
        """How many came since the last time. One of our own closes the line: whoever came before it is counted."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as last:
            ours = last.getsockname()[1]
            with self._news:
                assert self._news.wait_for(lambda: ours in self._came, timeout=10)
                came, self._came = self._came, []
        return len(came) - 1

    def close(self):
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@pytest.fixture(scope="module")
def addresses():
    """The private addresses that this machine has for the time being: all of them in a namespace of our own, or none."""
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY) if Path("/proc/thread-self/ns/net").exists() else None
    if shutil.which("ip") is None or home is None or libc.unshare(CLONE_NEWNET) != 0:
        yield ()
        return
    try:
        added = (f"addr add {address}/{'128 nodad' if ':' in address else 32} dev lo" for address in (*ADDRESSES, "fe80::7"))
        subprocess.run(["ip", "-batch", "-"], input="\n".join(["link set lo up", *added]), text=True, check=True)
        yield ADDRESSES
    finally:
        assert libc.setns(home, CLONE_NEWNET) == 0
        os.close(home)


@pytest.fixture(scope="module")
def listener(addresses):
    listener = Listener()
    yield listener
    listener.close()


@pytest.fixture(scope="module")
def origin(addresses):
    """The origin that CBK_ALLOWED_HOSTS names."""
    with Origin() as origin:
        yield origin


@pytest.fixture(scope="module")
def tls_origin(addresses):
    """The origin that the whole internet is."""
    with Origin(tls=True, names=["files.example.com", "other.example.com", "rebinding.example"]) as origin:
        yield origin


class Site:
    """A site whose downloads go through the system's sockets, and through its resolver but for the names of the internet."""

    def __init__(self, folder, origin, tls_origin, allowed):
        folder.mkdir()
        self.site = InProcessSite(folder, origin, allowed_hosts=allowed)
        self.tls_origin = tls_origin
        self.names = {}
        self.site.context.downloader = Downloader(
            AllowedHosts.parse(allowed),
            connect_timeout_seconds=2,
            read_timeout_seconds=2,
            ca_bundle=tls_origin.ca_file,
            sleep=lambda _: None,
            resolve=self._resolve,
            connect=self._connect,
        )
        self._names = DnsResolver(timeout_seconds=10)
        self._number = 0

    def _resolve(self, host, port):
        answers = self.names.get(host)
        found = answers.pop(0) if answers else ANSWERS.get(host)
        if found is None:
            return self._names(host, port)
        return [(socket.AF_INET6 if ":" in each else socket.AF_INET, (each, port)) for each in found]

    def _connect(self, family, address, timeout_seconds):
        if address[0] == PUBLIC:
            return connector.connect(socket.AF_INET, ("127.0.0.1", self.tls_origin.port), timeout_seconds)
        return connector.connect(family, address, timeout_seconds)

    def run(self, link, content=b"content"):
        """Write a row with this link, and do its backup; gives the version, or None where the row was declined."""
        self._number += 1
        key = f"{self._number}.bin"
        row_id = self.site.upload(key, content, link=link)
        with suppress(DownloadError):
            self.site.back_up(row_id)
        return version_of_row(self.site.context.catalog, row_id)

    def close(self):
        self.site.context.downloader.close()
        self.site.close()


@pytest.fixture(scope="module")
def named(tmp_path_factory, origin, tls_origin, listener):
    """Where CBK_ALLOWED_HOSTS names one port of this machine, and all that is below a domain, even at the listener's port."""
    allowed = f"{origin.address}, *.example.com, *.example.com:{listener.port}"
    site = Site(tmp_path_factory.mktemp("named") / "site", origin, tls_origin, allowed)
    yield site
    site.close()


@pytest.fixture(scope="module")
def public(tmp_path_factory, origin, tls_origin):
    """Where CBK_ALLOWED_HOSTS is not set."""
    site = Site(tmp_path_factory.mktemp("public") / "site", origin, tls_origin, "")
    yield site
    site.close()


@pytest.fixture(scope="module")
def welcome(tmp_path_factory, origin, tls_origin, listener):
    """Where CBK_ALLOWED_HOSTS names the listener by every address of it."""
    hosts = ("127.0.0.1", "::1", *ADDRESSES, *ANSWERS)
    allowed = ",".join(at(host, listener) for host in hosts)
    site = Site(tmp_path_factory.mktemp("welcome") / "site", origin, tls_origin, allowed)
    yield site
    site.close()


def at(host, listener):
    return f"[{host}]:{listener.port}" if ":" in host else f"{host}:{listener.port}"


def refused(version):
    """Whether it has no copy, and says why without the link."""
    return version is None or (version.state is not VersionState.STORED and version.reason and "secret" not in version.reason)


# The listener counts: what is not refused does come to it


@pytest.mark.parametrize("host", LOOSE)
def test_what_the_system_takes_for_an_address_of_this_machine_is_counted(listener, host):
    with socket.create_connection((host, listener.port), timeout=5):
        pass
    assert listener.visits() == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", *ADDRESSES])
def test_address_that_is_named_in_allowed_hosts_is_asked(welcome, listener, addresses, host):
    if host in ADDRESSES and not addresses:
        pytest.skip("PRIVATE ADDRESSES BEYOND LOOPBACK ARE NOT TESTED: there is no `ip` (iproute2), or no network namespace")
    assert welcome.run(f"http://{at(host, listener)}/a").state is VersionState.FAILED
    assert listener.visits() >= 1


@pytest.mark.parametrize("name", [name for name in ANSWERS if name.startswith("v")])
def test_name_in_allowed_hosts_may_have_a_private_address(welcome, listener, name):
    assert welcome.run(f"http://{at(name, listener)}/a").state is VersionState.FAILED
    assert listener.visits() >= 1


# Tricks


@pytest.mark.parametrize("link", LINKS)
def test_trick_as_the_link_of_a_row_reaches_nobody(public, named, listener, link):
    for site in (public, named):
        assert refused(site.run(link.format(port=listener.port)))
    assert listener.visits() == 0


@pytest.mark.parametrize("link", [link for link in LINKS if link.isprintable()])
def test_trick_as_a_redirect_of_an_origin_that_may_be_asked_reaches_nobody(public, named, origin, tls_origin, listener, link):
    # As it is on the wire: other letters than those of Latin-1 as UTF-8.
    place = link.format(port=listener.port).encode().decode("latin-1")
    tls_origin.put("/hop", b"", redirect(place, code=307))
    origin.put("/hop", b"", redirect(place))
    assert refused(public.run("https://files.example.com/hop"))
    assert refused(named.run("https://files.example.com/hop"))
    assert refused(named.run(origin.url("/hop")))
    assert tls_origin.count("/hop") == 2
    assert origin.count("/hop") == 1
    assert listener.visits() == 0


def test_every_trick_at_once_polled_twice_reaches_nobody_and_is_visible(public, listener):
    site = public.site
    rows = {site.upload(f"all/{number}", b"x", link=link.format(port=listener.port)) for number, link in enumerate(LINKS)}
    site.work()
    site.pass_backoff()
    site.work()
    assert listener.visits() == 0
    versions = [version for version in site.versions().values() if version.source_id in rows]
    assert len(versions) == len(rows)
    assert all(refused(version) for version in versions)


@pytest.mark.parametrize(("hop", "code"), [(1, 303), (2, 301), (3, 302), (4, 307), (5, 308)])
def test_private_address_at_a_later_hop_reaches_nobody(public, tls_origin, listener, hop, code):
    for number in range(1, hop):
        host = "other.example.com" if number % 2 else "files.example.com"
        tls_origin.put(f"/{number}", b"", redirect(f"https://{host}/{number + 1}", code))
    tls_origin.put(f"/{hop}", b"", redirect(f"https://127.0.0.1:{listener.port}/secret", code))
    version = public.run("https://files.example.com/1")
    assert version.state is VersionState.DECLINED
    assert tls_origin.count(f"/{hop}") == 1
    assert listener.visits() == 0


@pytest.mark.parametrize(
    "place", ["//127.0.0.1:{port}/a", "/\\127.0.0.1:{port}/a", "\\\\127.0.0.1:{port}/a", "///127.0.0.1:{port}/a"]
)
def test_relative_redirect_that_some_take_for_another_host_reaches_nobody(public, tls_origin, listener, place):
    tls_origin.put("/relative", b"", redirect(place.format(port=listener.port)))
    assert refused(public.run("https://files.example.com/relative"))
    assert listener.visits() == 0


@pytest.mark.parametrize("turned", ["127.0.0.1", "::1", "::ffff:127.0.0.1", "169.254.169.254", "fd00:ec2::254"])
@pytest.mark.parametrize("after", [0, 3])
def test_name_that_turns_private_between_two_attempts_reaches_nobody(public, tls_origin, listener, turned, after):
    tls_origin.put("/cut", b"content", cut(after), serve())
    public.names["rebinding.example"] = [[PUBLIC], [turned]]
    assert public.run(f"https://rebinding.example:{listener.port}/cut").state is VersionState.DECLINED
    assert public.names["rebinding.example"] == []  # it was looked up again
    assert tls_origin.count("/cut") == 1
    assert listener.visits() == 0


@pytest.mark.parametrize("turned", ["127.0.0.1", "::1", "169.254.169.254"])
def test_name_that_turns_private_right_after_it_was_checked_reaches_nobody(public, tls_origin, listener, turned):
    tls_origin.put("/good", b"content", until_close())
    public.names["rebinding.example"] = [[PUBLIC], [turned], [turned], [turned]]
    assert public.run(f"https://rebinding.example:{listener.port}/good").state is VersionState.STORED
    assert len(public.names["rebinding.example"]) == 3  # it was looked up once
    assert listener.visits() == 0


# What else could have a request go elsewhere


@pytest.mark.parametrize("header", ["Alt-Svc", "Refresh", "Link", "Content-Location", "X-Accel-Redirect"])
def test_header_of_an_answer_leads_nowhere(public, tls_origin, listener, header):
    place = f"https://127.0.0.1:{listener.port}/secret"
    tls_origin.put("/header", b"content", serve(**{header.replace("-", "_"): place}))
    assert public.run("https://files.example.com/header").state is VersionState.STORED
    assert listener.visits() == 0


@pytest.mark.parametrize("code", [200, 201, 206, 300, 304, 305, 306, 401, 407])
def test_status_that_is_no_redirect_leads_nowhere(public, tls_origin, listener, code):
    place = f"https://127.0.0.1:{listener.port}/secret"
    tls_origin.put("/status", b"content", redirect_like(code, {"Location": place, "Proxy-Authenticate": place}))
    assert refused(public.run("https://files.example.com/status"))
    assert listener.visits() == 0


def redirect_like(code, fields):
    def answer(exchange):
        exchange.send(code, fields)
        return False

    return answer


def test_proxies_of_the_environment_are_not_asked(public, named, origin, tls_origin, listener, monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "ftp_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{listener.port}")
        monkeypatch.setenv(name.upper(), f"http://user:password@127.0.0.1:{listener.port}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    origin.put("/a", b"content")
    tls_origin.put("/a", b"content")
    assert named.run(origin.url("/a")).state is VersionState.STORED
    assert public.run("https://files.example.com/a").state is VersionState.STORED
    assert listener.visits() == 0


def test_nothing_follows_a_redirect_to_another_host(tmp_path, named, origin, tls_origin, monkeypatch):
    (tmp_path / "netrc").write_text("default login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    tls_origin.put("/target", b"content", cut(3), serve())
    place = "https://other.example.com/target"
    tls_origin.put("/from", b"", redirect_like(302, {"Location": place, "Set-Cookie": "id=secret; Domain=example.com; Path=/"}))
    assert named.run("https://files.example.com/from?X-Amz-Signature=secret").state is VersionState.STORED
    first, again = tls_origin.requests("/target")
    plain = {"host": "other.example.com", "user-agent": "cloud-backup-kit", "accept": "*/*", "accept-encoding": "gzip, br, zstd"}
    assert first.headers == plain
    assert {name: again.headers[name] for name in plain} == plain
    assert set(again.headers) - set(plain) == {"range", "if-range"}
    assert [request.headers["host"] for request in tls_origin.requests("/from")] == ["files.example.com"] * 2


def test_host_header_names_the_port_of_its_own_origin(named, origin, tls_origin):
    tls_origin.put("/there", b"", redirect(origin.put("/here", b"content")))
    origin.put("/start", b"", redirect("https://files.example.com/last"))
    tls_origin.put("/last", b"content")
    assert named.run(origin.url("/start")).state is VersionState.STORED
    assert origin.requests("/start")[0].headers["host"] == origin.address
    assert tls_origin.requests("/last")[0].headers["host"] == "files.example.com"
    assert refused(named.run("https://files.example.com/there"))  # https never falls to http
    assert origin.count("/here") == 0
