"""Look-ups of names that hang, fail and come in numbers."""

import socket
import threading
from contextlib import suppress

import pytest

from cbk.edges.download.dns_resolver import DnsResolver, look_up

FOUND = [(socket.AF_INET, ("93.184.216.34", 443))]
PATIENCE = 20.0


class Resolver:
    """Names that begin with "slow" hang until they are released, "bad" ones are not found, all others are."""

    def __init__(self):
        self.asked = []
        self.threads = set()
        self.hanging = threading.Semaphore(0)
        self.released = threading.Event()

    def __call__(self, host, port):
        self.asked.append((host, port))
        self.threads.add(threading.current_thread())
        if host.startswith("slow"):
            self.hanging.release()
            assert self.released.wait(PATIENCE)
        if host.startswith("bad"):
            raise socket.gaierror(-2, "Name or service not known")
        return FOUND

    def wait_until_it_hangs(self, times=1):
        for _ in range(times):
            assert self.hanging.acquire(timeout=PATIENCE)


@pytest.fixture
def resolver():
    resolver = Resolver()
    yield resolver
    resolver.released.set()


def in_threads(names, *hosts):
    """Ask for each host in a thread of its own."""

    def ask(host):
        with suppress(TimeoutError):
            names(host, 443)

    threads = [threading.Thread(target=ask, args=[host]) for host in hosts]
    for thread in threads:
        thread.start()
    return threads


def test_name_is_looked_up(resolver):
    assert DnsResolver(PATIENCE, look_up=resolver)("files.example.com", 443) == FOUND
    assert resolver.asked == [("files.example.com", 443)]


def test_name_that_is_not_found_raises_what_the_resolver_raised(resolver):
    with pytest.raises(socket.gaierror):
        DnsResolver(PATIENCE, look_up=resolver)("bad.example.com", 443)


def test_name_that_hangs_is_given_up_and_not_asked_again_and_others_are_looked_up_meanwhile(resolver):
    names = DnsResolver(1, look_up=resolver)
    (thread,) = in_threads(names, "slow.example.com")
    resolver.wait_until_it_hangs()
    assert names("files.example.com", 443) == FOUND
    with pytest.raises(TimeoutError):
        names("slow.example.com", 443)
    thread.join(PATIENCE)
    assert resolver.asked.count(("slow.example.com", 443)) == 1


def test_one_thread_serves_one_look_up_after_the_other(resolver):
    names = DnsResolver(PATIENCE, look_up=resolver)
    for number in range(20):
        names(f"{number}.example.com", 443)
    assert len(resolver.threads) == 1
    assert all(thread.daemon for thread in resolver.threads)


def test_names_that_hang_take_so_many_threads_and_no_more(resolver):
    names = DnsResolver(PATIENCE, look_up=resolver, most_threads=3)
    threads = in_threads(names, "slow1", "slow2", "slow3")
    resolver.wait_until_it_hangs(3)
    with pytest.raises(TimeoutError):
        names("files.example.com", 443)
    assert len(resolver.threads) == 3
    resolver.released.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert names("files.example.com", 443) == FOUND
    assert len(resolver.threads) == 3


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "93.184.216.34"])
def test_address_needs_no_thread(resolver, address):
    assert DnsResolver(0, look_up=resolver)(address, 443) == FOUND
    assert resolver.threads == {threading.current_thread()}


def test_system_gives_the_addresses_of_an_address():
    assert look_up("127.0.0.1", 80) == [(socket.AF_INET, ("127.0.0.1", 80))]
