"""A MariaDB on loopback that dumps are taken from, of Debian's packages (`scripts/test-tools`)."""

import os
import pwd
import shutil
import subprocess
from typing import ClassVar

import pytest

from local_servers import LOOPBACK, Server, ServerFailed

PATH = f"{os.defpath}:/usr/sbin:/sbin"


def program(name):
    """The path of a program of Debian's. Skips the test, and says why, where it is not installed."""
    found = shutil.which(name, path=PATH)
    if found is None:
        pytest.skip(f"{name} is not installed on this machine: as root on Debian, `scripts/test-tools` installs it")
    return found


class MariaDB(Server):
    """A MariaDB on loopback: `root` may come in without a password, `app` with the password `secret`."""

    name = "mariadb"
    environment: ClassVar = {"PATH": PATH}

    def __init__(self, folder, *, port=None):
        super().__init__(folder, port=port)
        self.data_folder = self.folder / "data"
        if os.geteuid() == 0:
            account = pwd.getpwnam("nobody")
            self.account = (account.pw_uid, account.pw_gid)

    def url(self, database, user="app", password="secret"):
        return f"mysql://{user}:{password}@{LOOPBACK}:{self.port}/{database}"

    def execute(self, sql, database="mysql"):
        client = [program("mariadb"), "--no-defaults", f"--host={LOOPBACK}", f"--port={self.port}", "--user=root"]
        done = subprocess.run(
            [*client, "--batch", "--skip-column-names", database], input=sql, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return [tuple(line.split("\t")) for line in done.stdout.splitlines()]

    def create_database(self, name):
        self.execute(f"CREATE DATABASE `{name}`; GRANT ALL ON `{name}`.* TO app@'%' IDENTIFIED BY 'secret'")
        return self.url(name)

    def prepare(self):
        if self.data_folder.exists():
            return
        super().prepare()
        self.folder.chmod(0o755)
        self.data_folder.mkdir()
        if self.account:
            os.chown(self.folder, *self.account)
            os.chown(self.data_folder, *self.account)
        install = [program("mariadb-install-db"), "--no-defaults", f"--datadir={self.data_folder}", "--skip-test-db"]
        install += ["--auth-root-authentication-method=normal", "--skip-name-resolve"]
        done = subprocess.run(self._launch(install), env=self._environment(), capture_output=True, text=True, check=False)
        if done.returncode:
            raise ServerFailed(f"mariadb-install-db failed: {done.stdout}{done.stderr}")

    def command(self):
        settings = [f"--datadir={self.data_folder}", f"--port={self.port}", f"--bind-address={LOOPBACK}", "--skip-name-resolve"]
        settings += [f"--socket={self.folder}/s", "--innodb-flush-log-at-trx-commit=0", "--innodb-log-file-size=64M"]
        return [program("mariadbd"), "--no-defaults", *settings]

    def is_ready(self):
        ping = [program("mariadb-admin"), "--no-defaults", f"--host={LOOPBACK}", f"--port={self.port}", "--user=root", "ping"]
        return subprocess.run(ping, capture_output=True, check=False).returncode == 0
