"""What may be configured for a dump, and how mistakes are named."""

import tomllib
from datetime import timedelta

import pytest

from cbk.jobs.admin.setup import masked, written
from cbk.rules.dump.spec import DEFAULT_KEEP, DumpKind, KeepRules, parse_dump, parse_dumps
from cbk.settings import parse_settings

URL = "postgresql://backup:secret@db.example.com:5433/app?sslmode=require"


def problems(**options):
    with pytest.raises(ValueError) as failed:
        parse_dump("app", options)
    return list(failed.value.args)


def test_a_url_alone_is_a_dump():
    spec = parse_dump("app", {"url": URL})
    assert (spec.kind, spec.schedule.text, spec.keep, spec.bucket, spec.roles) == (
        DumpKind.POSTGRESQL,
        "0 3 * * *",
        DEFAULT_KEEP,
        "dumps",
        True,
    )


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("postgres://h/app", DumpKind.POSTGRESQL),
        ("postgresql+psycopg://h/app", DumpKind.POSTGRESQL),
        ("mysql+pymysql://u:p@h/app", DumpKind.MYSQL),
        ("mariadb://u:p@h/app", DumpKind.MYSQL),
        ("sqlite:////srv/app.db", DumpKind.SQLITE),
    ],
)
def test_a_url_tells_its_kind(url, kind):
    assert parse_dump("app", {"url": url}).kind is kind


def test_a_sqlite_path_is_absolute_with_three_slashes_or_four():
    assert {parse_dump("a", {"url": url}).sqlite_path for url in ("sqlite:///srv/a.db", "sqlite:////srv/a.db")} == {"/srv/a.db"}


def test_a_password_is_not_shown():
    assert "secret" not in repr(parse_dump("app", {"url": URL}))


def test_keep_is_a_number_of_the_newest_or_a_table():
    assert parse_dump("app", {"url": URL, "keep": 5}).keep == KeepRules(last=5)
    assert parse_dump("app", {"url": URL, "keep": {"daily": 3, "yearly": 1}}).keep == KeepRules(daily=3, yearly=1)


def test_over_ssh_the_kind_has_to_be_said():
    assert problems(ssh="backup@db.example.com") == ["kind: is required without a url: postgresql, mysql, sqlite or raw"]
    spec = parse_dump(
        "app", {"ssh": "backup@db.example.com:2222", "kind": "postgresql", "host_key": "ssh-ed25519 AAAAC3Nz comment"}
    )
    assert (spec.roles, spec.host_key) == (False, "ssh-ed25519 AAAAC3Nz")


def test_a_command_is_split_as_a_shell_would_but_no_shell_reads_it():
    assert parse_dump("app", {"command": "docker exec db 'my dump'", "kind": "raw"}).command == ("docker", "exec", "db", "my dump")
    assert "no shell reads it" in problems(command="pg_dump app | gzip", kind="postgresql")[0]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({}, "expected one of url, ssh and command"),
        ({"url": URL, "ssh": "db"}, "expected one of url, ssh and command"),
        ({"url": "oracle://h/app"}, "url: expected the URL of a database"),
        ({"url": "postgresql://h"}, "url: expected the URL of a database"),
        ({"url": URL, "scheduled": "x"}, "unknown key scheduled (did you mean schedule?)"),
        ({"url": URL, "schedule": "61 * * * *"}, "schedule: expected cron text"),
        ({"url": URL, "timezone": "Mars/Base"}, "timezone: expected a time zone"),
        ({"url": URL, "keep": 0}, "keep: at least one dump has to stay"),
        ({"url": URL, "keep": {"dayly": 1}}, "keep: unknown dayly"),
        ({"url": URL, "kind": "mysql"}, "kind: contradicts the url"),
        ({"url": URL, "host_key": "ssh-ed25519 AAAA"}, "ssh_key and host_key go with ssh"),
        ({"url": URL, "end_mark": "x"}, "end_mark: goes with the kind raw"),
        ({"url": URL, "bucket": "../x"}, "bucket: expected a plain folder name"),
        ({"url": URL, "jitter": "soon"}, "jitter: expected a duration"),
        ({"ssh": "-oProxyCommand=x", "kind": "raw"}, "ssh: expected user@host"),
        ({"url": "mysql://h/app", "roles": True}, "roles: PostgreSQL alone has them"),
    ],
)
def test_a_mistake_is_named_with_what_is_expected(options, named):
    assert any(problem.startswith(named) for problem in problems(**options))


def test_every_problem_of_every_dump_is_named_at_once():
    with pytest.raises(ValueError, match=r"(?s)Bad Name: .*other: url: ") as failed:
        parse_dumps({"Bad Name": {"url": URL}, "other": {"url": "x", "keep": -1}})
    assert "other: keep: " in str(failed.value)


def test_durations_are_read_as_everywhere():
    assert parse_dump("app", {"url": URL, "jitter": "1h", "timeout": "2h"}).jitter == timedelta(hours=1)


def test_the_file_of_settings_holds_dumps_and_a_person_is_not_shown_them():
    options = {"url": URL, "keep": {"daily": 7, "weekly": 4}, "roles": True}
    values = {
        "source_url": "sqlite:////srv/app.db",
        "dumps": {"app": options, "own": {"command": ["sh", "-c", 'echo "x"'], "kind": "raw"}},
    }
    assert tomllib.loads(written(values)) == values
    assert set(parse_settings(values).dumps) == {"app", "own"}
    assert "secret" not in str(masked(values))
