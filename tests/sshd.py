"""A real sshd on loopback: another machine to send to, for one key and one user, the one that runs the tests.

    with Sshd(folder) as sshd:
        subprocess.run(["ssh", *sshd.options, sshd.host, "true"])

`scripts/test-tools` installs what it needs (Debian's openssh-server). Where that is missing, tests that ask for it are skipped, and
say so.
"""

import getpass
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

import local_servers

_START_SECONDS = 20
_PATH = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"


def sshd_or_skip():
    """The programs that are needed, by name. Skips the test where one is missing, and says how to get it."""
    found = {name: shutil.which(name, path=_PATH) for name in ("sshd", "ssh-keygen")}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} missing: as root, `scripts/test-tools` installs openssh-server")
    return found


class Sshd:
    """The server and its keys, in `folder`; `root` is nothing but a folder to put things in."""

    host = local_servers.LOOPBACK

    def __init__(self, folder):
        self._programs = sshd_or_skip()
        self.folder = Path(folder)
        self.root = self.folder / "there"
        self.root.mkdir(parents=True)
        self.key = self.folder / "id"
        self.known_hosts = self.folder / "known_hosts"
        self.user = getpass.getuser()
        self.port = local_servers.free_port()
        self._process = None
        self._make_keys()

    @property
    def options(self):
        """Options for ssh, scp and sftp."""
        given = {"Port": self.port, "User": self.user, "IdentityFile": self.key, "UserKnownHostsFile": self.known_hosts}
        fixed = {"IdentitiesOnly": "yes", "StrictHostKeyChecking": "yes", "BatchMode": "yes"}
        return [word for name, value in (given | fixed).items() for word in ("-o", f"{name}={value}")]

    @property
    def host_key(self):
        """The public host key, as a client pins it."""
        return " ".join((self.folder / "host_key.pub").read_text().split()[:2])

    def force(self, command):
        """From now on the key can run this command and nothing else."""
        quoted = command.replace("\\", "\\\\").replace('"', '\\"')
        (self.folder / "authorized_keys").write_text(f'restrict,command="{quoted}" {(self.folder / "id.pub").read_text()}')

    def start(self):
        """Start it, or again; returns once it answers."""
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where it gives its privileges up
        with (self.folder / "sshd.log").open("ab") as log:
            command = [self._programs["sshd"], "-D", "-e", "-f", self.folder / "sshd_config"]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until = time.monotonic() + _START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > until:
                raise AssertionError(f"sshd did not start: {(self.folder / 'sshd.log').read_text()[-2000:]}")
            time.sleep(local_servers.POLL_SECONDS)
        return self

    def stop(self):
        """End it, and the connections to it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

    def _answers(self):
        try:
            with socket.create_connection((self.host, self.port), timeout=1) as connection:
                return connection.recv(4) == b"SSH-"
        except OSError:
            return False

    def _make_keys(self):
        for name in ("id", "host_key"):
            command = [self._programs["ssh-keygen"], "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", self.folder / name]
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        (self.folder / "authorized_keys").write_bytes((self.folder / "id.pub").read_bytes())
        host_key = (self.folder / "host_key.pub").read_text().split()
        self.known_hosts.write_text(f"[{self.host}]:{self.port} {host_key[0]} {host_key[1]}\n")
        settings = {
            "ListenAddress": f"{self.host}:{self.port}",
            "HostKey": self.folder / "host_key",
            "AuthorizedKeysFile": self.folder / "authorized_keys",
            "PidFile": "none",
            "StrictModes": "no",  # the folder of a test may be anybody's
            "UsePAM": "no",
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "PermitRootLogin": "prohibit-password",
            "MaxStartups": "100:30:200",
            "Subsystem": "sftp internal-sftp",
        }
        (self.folder / "sshd_config").write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
