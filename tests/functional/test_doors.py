"""Redis behind TLS and an ACL, as the threat model tells to set it up: the kit needs no more, and nobody else gets in."""

import re
import socket
import socketserver
import ssl
import threading
from contextlib import suppress

import pytest
import redis
import trustme

from cbk.edges.redis.broker import check_broker
from cbk.errors import BrokerUnavailable
from local_servers import LOOPBACK, Valkey, wait_until
from tests.functional.site import REPOSITORY
from tests.integration.test_courier import make_courier

PASSWORD = "a-long-password"


def documented_acl():
    """The lines of the page, to the letter."""
    text = (REPOSITORY / "docs/threat-model.md").read_text(encoding="utf-8")
    return re.search(r"```\n(user default off\nuser cbk .*?)\n```", text, re.DOTALL)[1]


class GuardedValkey(Valkey):
    """A Valkey with the documented users, and one for the test to look in."""

    def prepare(self):
        super().prepare()
        (self.folder / "users.acl").write_text(f"{documented_acl()}\nuser looker on >look ~* &* +@all\n", encoding="utf-8")

    def command(self):
        return [*super().command(), "--aclfile", str(self.folder / "users.acl")]

    def is_ready(self):
        try:
            return self.looker().ping()
        except (OSError, redis.RedisError):
            return False

    def looker(self):
        return redis.Redis(port=self.port, username="looker", password="look")


class TlsFront(socketserver.ThreadingTCPServer):
    """TLS before a server that speaks none, as stunnel or a load balancer puts it there; the wheel's Valkey is built without."""

    daemon_threads = True

    def __init__(self, target, authority):
        super().__init__((LOOPBACK, 0), None)
        self.target = target
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(LOOPBACK).configure_cert(self.context)

    def finish_request(self, client, _address):
        with (
            suppress(OSError),
            self.context.wrap_socket(client, server_side=True) as near,
            socket.create_connection((LOOPBACK, self.target)) as far,
        ):
            back = threading.Thread(target=pump, args=(far, near), daemon=True)
            back.start()
            pump(near, far)
            back.join()

    def handle_error(self, *_):
        """Whoever does not trust us hangs up: that is the point."""

    def url(self, ca=None, *, user="cbk", password=PASSWORD, host=LOOPBACK):
        query = f"?ssl_ca_certs={ca}" if ca else ""
        return f"rediss://{user}:{password}@{host}:{self.server_address[1]}/0{query}"


def pump(source, to):
    """Pass on until one end is closed, and close the other."""
    with suppress(OSError):
        while data := source.recv(65536):
            to.sendall(data)
    with suppress(OSError):
        to.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def ca(authority, servers_folder):
    path = servers_folder / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


@pytest.fixture(scope="module")
def guarded(servers_folder):
    with GuardedValkey(servers_folder) as server:
        yield server


@pytest.fixture(scope="module")
def front(guarded, authority):
    with TlsFront(guarded.port, authority) as front:
        threading.Thread(target=front.serve_forever, args=(0.01,), daemon=True).start()
        yield front
        front.shutdown()


def is_let_in(url):
    """Whether the kit's two ways to Redis, `cbk doctor`'s and Celery's, both get in; one alone would be a hole or a trap."""
    ways = []
    app, publisher = make_courier(url)
    for way in (lambda: check_broker(url), publisher.waiting_backups):
        try:
            way()
            ways.append(True)
        except BrokerUnavailable:
            ways.append(False)
    app.close()
    assert len(set(ways)) == 1, ways
    return ways[0]


def test_kit_works_end_to_end_through_tls_with_the_documented_user_and_is_denied_nothing(make_site, guarded, front, ca):
    site = make_site(
        CBK_BROKER_URL=front.url(ca), CBK_GRACE_PERIOD="1s", CBK_TRASH="0", CBK_CLOCK_SYNC="ignore", CBK_BANDWIDTH="100M"
    )
    site.init()
    looker = guarded.looker()
    looker.acl_log_reset()
    site.worker()
    site.beat()
    for number in range(3):
        row = site.upload(f"{number}.txt", b"%d" % number)
    site.wait_protected(3)
    site.sql('INSERT INTO "ObjectStorageDeleteLog" ("FileId") VALUES (:row)', row=row)
    wait_until(lambda: len(site.copies()) == 2, 90, lambda: f"the deleted copy to go\n{site.logs()[-2000:]}")
    site.celery("inspect", "ping", "--timeout", "5", name="ping")
    wait_until(
        lambda: "pong" in (site.folder / "ping.log").read_text(), 90, lambda: f"an answer to the ping\n{site.logs()[-2000:]}"
    )
    assert "Redis" in site.cbk("doctor", expect=None).stdout or "Valkey" in site.cbk("doctor", expect=None).stdout
    assert looker.acl_log() == []
    assert {key.split(b":")[0] for key in looker.scan_iter()} == {b"cbk"}


def test_documented_user_gets_in_with_the_right_authority_only(front, ca, tmp_path):
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    assert is_let_in(front.url(ca))
    assert not is_let_in(front.url(other))
    assert not is_let_in(front.url())  # that of a public authority is expected then


def test_certificate_of_another_name_is_refused(front, ca):
    assert not is_let_in(front.url(ca, host="localhost"))


@pytest.mark.parametrize("who", [{"user": "cbk", "password": "wrong"}, {"user": "default", "password": ""}, {"user": "nobody"}])
def test_nobody_else_gets_in(front, ca, who):
    assert not is_let_in(front.url(ca, **who))


def test_plain_text_is_no_way_in_without_a_password(guarded):
    assert not is_let_in(f"redis://{LOOPBACK}:{guarded.port}/0")


@pytest.mark.parametrize(
    "command", ["FLUSHALL", "CONFIG GET *", "KEYS *", "SHUTDOWN", "ACL LIST", "GET other", "SET other x", "CLIENT KILL ID 1"]
)
def test_documented_user_may_do_nothing_else(front, ca, command):
    with redis.Redis.from_url(front.url(ca)) as client, pytest.raises(redis.exceptions.NoPermissionError):
        client.execute_command(*command.split())
