"""Several hosts on one machine: each a network namespace of its own, plugged into a bridge that leads to the services.

    with Network() as network:
        one, two = network.host(), network.host()
        one.enter                      # what a command begins with that is to run there
        one.cut_off(network.address(1))  # silence between the two, in both directions, for connections that are open as well
        one.unplug()                   # its cable is out
        one.die()                      # its power is gone: nobody is told

The namespaces have no names. They are held by processes that end with the one that started them, and with them goes everything that
is in them, the bridge and all cables included: nothing is left, however the tests end.
"""

import functools
import itertools
import os
import shutil
import subprocess
import sys

from local_servers import LOOPBACK, Postgres, Valkey

TOOLS = {"ip": "iproute2", "nsenter": "util-linux", "setpriv": "util-linux"}
_WIDTH = 24

# Moves into a network namespace of its own, says so, and sleeps until it is killed, or whoever started it is gone.
_HOLDER = """
import ctypes, os, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET, PR_SET_PDEATHSIG = 0x40000000, 1
if libc.unshare(CLONE_NEWNET) != 0:
    sys.exit(os.strerror(ctypes.get_errno()))
libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent is gone already")
print("here", flush=True)
while True:
    signal.pause()
"""


class _Namespace:
    """A network namespace, and the process that holds it."""

    def __init__(self):
        self._holder = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _HOLDER, str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        if self._holder.stdout.readline() != "here\n":
            _, said = self._holder.communicate()
            raise OSError(f"no network namespace can be made: {said.strip()}")
        self.pid = str(self._holder.pid)
        self.enter = ["nsenter", "--target", self.pid, "--net", "setpriv", "--pdeathsig", "KILL"]
        self.run("ip", "link", "set", "lo", "up")

    def run(self, *command):
        _run(*self.enter, *command)

    def close(self):
        self._holder.kill()
        self._holder.communicate()


class Host:
    """One host: `address` is its own, `enter` what a command begins with that is to run there, `env` what is added to its
    environment. Its `processes` die with it.
    """

    def __init__(self, network, number):
        self.address = network.address(number)
        self._cable = f"host{number}"
        self._switch = network.switch
        self._space = _Namespace()
        self.processes = []
        self.env = {}
        self.enter = self._space.enter
        self._switch.run("ip", "link", "add", self._cable, "type", "veth", "peer", "name", "eth0", "netns", self._space.pid)
        self._switch.run("ip", "link", "set", self._cable, "master", "bridge", "up")
        self._space.run("ip", "address", "add", f"{self.address}/{_WIDTH}", "dev", "eth0")
        self._space.run("ip", "link", "set", "eth0", "up")
        # A cable that ends nowhere. What is sent there is lost, and what comes from where it leads, but on another way, as well.
        self._space.run("ip", "link", "add", "hole", "type", "veth", "peer", "name", "nowhere")
        self._space.run("ip", "link", "set", "hole", "arp", "off", "up")
        self._space.run("ip", "link", "set", "nowhere", "up")
        self._space.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/conf/all/rp_filter")

    def cut_off(self, *addresses):
        """Nothing comes through any more between this host and these, and neither is told."""
        for address in addresses:
            self._space.run("ip", "route", "replace", f"{address}/32", "dev", "hole", "src", self.address)

    def reconnect(self, *addresses):
        for address in addresses:
            self._space.run("ip", "route", "delete", f"{address}/32", "dev", "hole")

    def unplug(self):
        self._switch.run("ip", "link", "set", self._cable, "down")

    def plug_in(self):
        self._switch.run("ip", "link", "set", self._cable, "up")

    def die(self):
        """Its power is gone for good: not even the end of a connection gets out."""
        self.unplug()
        for process in self.processes:
            process.kill()
        self.close()

    def close(self):
        self._space.close()


class Network:
    """The bridge, and the cable to it from this side. `address(n)`, for n up to 9, are addresses of this side, for services."""

    def __init__(self):
        self._prefix = _free_prefix()
        self._numbers = itertools.count(20)
        self._hosts = []
        self._cable = f"cbk{os.getpid()}"  # at most 15 characters (IFNAMSIZ)
        self.switch = _Namespace()
        try:
            self._lay_cable()
        except BaseException:
            self.close()
            raise

    def _lay_cable(self):
        self.switch.run("ip", "link", "add", "bridge", "type", "bridge")
        self.switch.run("ip", "link", "set", "bridge", "up")
        _run("ip", "link", "add", self._cable, "type", "veth", "peer", "name", "uplink", "netns", self.switch.pid)
        self.switch.run("ip", "link", "set", "uplink", "master", "bridge", "up")
        for number in range(1, 10):
            _run("ip", "address", "add", f"{self.address(number)}/{_WIDTH}", "dev", self._cable)
        _run("ip", "link", "set", self._cable, "up")

    def address(self, number):
        return f"{self._prefix}.{number}"

    def host(self):
        """One more host."""
        host = Host(self, next(self._numbers))
        self._hosts.append(host)
        return host

    def close(self):
        for host in self._hosts:
            host.close()
        # The kernel takes down what was in a namespace a moment later: another network may want the name now.
        subprocess.run(["ip", "link", "delete", self._cable], capture_output=True, check=False)
        self.switch.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class NetworkValkey(Valkey):
    """Valkey at an address of a network."""

    def __init__(self, folder, address):
        super().__init__(folder)
        self.address = address

    @property
    def url(self):
        return f"redis://{self.address}:{self.port}/0"

    def command(self):
        return [*super().command(), "--bind", LOOPBACK, self.address, "--protected-mode", "no"]


class NetworkPostgres(Postgres):
    """PostgreSQL at addresses of a network; `url` names the first of them."""

    def __init__(self, folder, *addresses):
        super().__init__(folder)
        self.addresses = addresses

    def url(self, database="postgres", user="postgres", password=None, *, address=None):
        return super().url(database, user, password).replace(LOOPBACK, address or self.addresses[0])

    def prepare(self):
        super().prepare()
        with (self.data_folder / "pg_hba.conf").open("a") as rules:
            rules.write("host all all samenet trust\n")

    def command(self):
        return [*super().command(), "-c", f"listen_addresses={','.join((LOOPBACK, *self.addresses))}"]


@functools.cache
def why_not():
    """Why this machine cannot have several hosts; empty where it can."""
    if sys.platform != "linux":
        return "only Linux has network namespaces"
    if os.geteuid() != 0:
        return "only root may make network namespaces"
    for tool, package in TOOLS.items():
        if shutil.which(tool) is None:
            return f"there is no {tool} (Debian: apt-get install {package})"
    try:
        with Network() as network:
            host = network.host()
            host.cut_off(network.address(1))
            host.unplug()
    except (AssertionError, OSError) as error:
        return f"this kernel or container does not let hosts be made: {error}"
    return ""


def _free_prefix():
    """The first three numbers of addresses for tests (RFC 2544) that no interface has; of several runs, each has its own."""
    taken = subprocess.run(["ip", "-oneline", "address"], capture_output=True, text=True, check=True).stdout
    for number in range(os.getpid(), os.getpid() + 256):
        prefix = f"198.18.{number % 256}"
        if f" {prefix}." not in taken:
            return prefix
    raise OSError("every network of 198.18.0.0/16 is taken")


def _run(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
