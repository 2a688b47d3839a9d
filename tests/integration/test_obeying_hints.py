"""Something is wrong, and somebody obeys whatever the kit says: that makes it well or changes nothing, and never makes it worse."""

import os
import re
import shlex
from contextlib import closing

import pytest
from click.testing import CliRunner

from cbk.cli.main import cli
from cbk.edges import host
from cbk.errors import CbkError
from cbk.jobs.status.status import gather_status
from tests.in_process_site import InProcessSite
from tests.origin import Origin
from tests.refusing_valkey import RefusingValkey

# What somebody tries who wonders what is wrong.
LOOKS = (
    ["status"],
    ["doctor"],
    ["ls"],
    ["verify"],
    ["prune"],
    ["prune", "--plan"],
    ["hold", "--list"],
    ["history", "a.txt"],
    ["restore", "--to", "out"],
    ["init"],
    ["upgrade"],
    ["drill"],
)
# What asks at a terminal, shows until ^C, or is about a value of the reader's.
NOT_TYPED = re.compile(r"cbk setup|--watch|--answers|[A-Z]{2,}|\.\.\.|cbk page")


class Incident:
    """A site with two files and a deleted one, and a way to break and mend something of it."""

    def __init__(self, site, folder):
        self.site = site
        self.folder = folder

    def run(self, *arguments):
        done = CliRunner().invoke(cli, arguments, env=self.site.environment)
        said = done.output
        if isinstance(done.exception, CbkError):
            said += f"{done.exception.message}\n{done.exception.hint}\n"
        elif done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return said

    def hinted(self):
        """The commands of the kit that anything says now."""
        said = "".join(self.run(*look) for look in LOOKS)
        return sorted(each for each in re.findall(r"`(cbk [^`\n]+)`", said) if not NOT_TYPED.search(each))

    def copies(self):
        """The copies that are anywhere below the folder, with what is in them."""
        return {path.name + path.parent.name: path.read_bytes() for path in sorted(self.folder.rglob("v*.gzip"))}


def unmount(incident):
    incident.site.context.close()
    incident.site.root.rename(incident.folder / "unplugged")
    incident.site.root.mkdir()


def mount(incident):
    for path in incident.site.root.iterdir():
        pytest.fail(f"{path} was made where no disk is mounted")
    incident.site.root.rmdir()
    (incident.folder / "unplugged").rename(incident.site.root)


def lose_catalog(incident):
    incident.site.context.close()
    for path in (incident.site.root / ".cbk").glob("catalog.db*"):
        path.unlink()


def damage_catalog(incident):
    lose_catalog(incident)
    (incident.site.root / ".cbk/catalog.db").write_bytes(b"this is no database" * 1000)


def put_aside(incident):
    catalog = incident.site.root / ".cbk/catalog.db"
    if catalog.read_bytes().startswith(b"this"):
        catalog.rename(incident.folder / "aside")


def setting(**values):
    def change(incident):
        incident.kept = {name: incident.site.settings.get(name) for name in values}
        incident.site.settings |= values

    return change


def reset(incident):
    for name, value in incident.kept.items():
        if value is None:
            del incident.site.settings[name]
        else:
            incident.site.settings[name] = value


def nothing(_incident):
    pass


INCIDENTS = {
    "disk unmounted": (unmount, mount),
    "catalog lost": (lose_catalog, nothing),
    "catalog damaged": (damage_catalog, put_aside),
    "disk full": (setting(min_free_space="9999TiB"), reset),
    "Redis down": (setting(broker_url="redis://127.0.0.1:1/0"), reset),
    "database down": (setting(source_url="postgresql+psycopg://cbk@127.0.0.1:1/app"), reset),
}


@pytest.fixture
def incident(tmp_path, monkeypatch, broker_url):
    """The site, whose catalog is on its disk, as it is by default."""
    for name in [name for name in os.environ if name.startswith("CBK_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(host, "clock_is_synchronised", lambda: True)
    place = f"sqlite:///{tmp_path}/backups/.cbk/catalog.db"
    with Origin() as origin, closing(InProcessSite(tmp_path, origin, catalog_url=place, broker_url=broker_url)) as site:
        for name in ("a.txt", "b.txt"):
            site.upload(name, name.encode())
        gone = site.upload("gone.txt", b"gone")
        site.poll()
        site.work()
        site.delete(gone)
        site.poll()
        yield Incident(site, tmp_path)


def obey(incident, mend):
    """Obey each hint; all copies stay, and with the cause away everything is protected again."""
    before = incident.copies()
    assert len(before) == 3
    commands = incident.hinted()
    for command in commands:
        incident.run(*shlex.split(command)[1:])
        missing = [name for name in before if incident.copies().get(name) != before[name]]
        assert missing == [], command
    mend(incident)
    if not (incident.site.root / ".cbk/catalog.db").exists():
        incident.run("rebuild")
    incident.site.context.close()
    incident.site.reopen()
    incident.site.poll()
    incident.site.work()
    incident.run("verify")
    status = gather_status(incident.site.context)
    assert [problem.message for problem in status.problems] == []
    assert status.is_protected
    assert incident.copies().items() >= before.items()
    return commands


@pytest.mark.parametrize("name", INCIDENTS)
def test_obeying_any_hint_never_makes_it_worse(incident, name):
    break_it, mend = INCIDENTS[name]
    break_it(incident)
    assert obey(incident, mend) != []


@pytest.mark.parametrize("name", ["catalog lost"])
def test_obeying_alone_makes_it_well(incident, name):
    INCIDENTS[name][0](incident)
    for command in incident.hinted():
        incident.run(*shlex.split(command)[1:])
    incident.site.reopen()
    incident.site.poll()
    assert gather_status(incident.site.context).is_protected


def test_obeying_any_hint_of_a_wrong_clock_lets_nothing_go(incident, monkeypatch):
    monkeypatch.setattr(host, "clock_is_synchronised", lambda: False)
    assert obey(incident, lambda _: monkeypatch.setattr(host, "clock_is_synchronised", lambda: True)) != []


@pytest.mark.parametrize(
    ("refuse", "relent"),
    [
        (RefusingValkey.become_replica, RefusingValkey.become_primary),
        (RefusingValkey.refuse_writes, RefusingValkey.take_writes),
    ],
    ids=["replica", "MISCONF"],
)
def test_obeying_any_hint_where_redis_refuses_never_makes_it_worse(incident, servers_folder, refuse, relent):
    with RefusingValkey(servers_folder) as server:
        incident.site.settings["broker_url"] = server.url
        refuse(server)
        assert "Redis" in incident.run("doctor")
        obey(incident, lambda _: relent(server))
