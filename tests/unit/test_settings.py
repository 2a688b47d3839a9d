"""What is configured: every way to write it, and every problem told at once."""

from datetime import timedelta
from pathlib import Path

import pytest

from cbk import settings as module
from cbk.errors import SettingsError
from cbk.rules.text.durations import parse_duration
from cbk.rules.text.sizes import parse_size
from cbk.settings import Settings, load_settings, unknown_names

SOURCE = "postgresql+psycopg://reader:hunter2@db/app"


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    """Nothing of the machine's own: neither its environment nor its /etc."""
    for name in list(module.os.environ):
        if name.startswith("CBK_"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(module, "DEFAULT_CONFIG", tmp_path / "etc" / "cbk.toml")
    monkeypatch.setenv("CBK_SOURCE_URL", SOURCE)
    return monkeypatch


def problems(config=None):
    with pytest.raises(SettingsError) as caught:
        load_settings(config)
    assert caught.value.hint
    return list(caught.value.problems)


def test_only_the_source_has_no_default(environment):
    assert load_settings().source == SOURCE
    environment.delenv("CBK_SOURCE_URL")
    [problem] = problems()
    assert problem.startswith("CBK_SOURCE_URL: is required (The application's database")


def test_defaults_are_those_of_the_contract():
    settings = load_settings()
    assert settings.catalog == "sqlite:////backups/.cbk/catalog.db"
    assert settings.broker == "redis://127.0.0.1:6379/0"
    assert (settings.poll_interval, settings.grace_period) == (timedelta(seconds=60), timedelta(days=7))
    assert (settings.keep_versions, settings.lease, settings.buckets) == (1, timedelta(minutes=2), {})
    assert (settings.allowed_hosts, settings.concurrency, settings.max_file_size) == ("", None, 0)


def test_catalog_of_a_relative_root_is_found_from_any_folder(environment, tmp_path):
    environment.setenv("CBK_BACKUP_ROOT", "disk")
    environment.chdir(tmp_path)
    assert load_settings().catalog == f"sqlite:///{tmp_path}/disk/.cbk/catalog.db"


@pytest.mark.parametrize("field", list(Settings.model_fields))
def test_every_setting_says_what_it_is_for(field):
    assert Settings.model_fields[field].description


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("15m", 900),
        ("12h", 43_200),
        ("7d", 604_800),
        ("2w", 1_209_600),
        ("250ms", 0.25),
        ("1h30m", 5400),
        ("1h 30m", 5400),
        ("1.5h", 5400),
        (" 2 H ", 7200),
        ("45", 45),
        ("0", 0),
        (45, 45),
        (0.5, 0.5),
    ],
)
def test_duration_is_read(text, seconds):
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text", ["", "soon", "5 parsecs", "-5s", "1h and a half", "5M5", "s", "1e3s", "٣s", "inf", "nan", "200000d", True, None]
)
def test_what_is_no_duration_is_told_with_an_example(text):
    with pytest.raises(ValueError, match="expected a duration such as"):
        parse_duration(text)


@pytest.mark.parametrize(
    "text", ["9" * 30 + "d", "9" * 400, 10**400, float("inf"), float("nan"), -1], ids=lambda value: repr(value)[:12]
)
def test_duration_longer_than_time_itself_is_told_like_any_other_mistake(text):
    with pytest.raises(ValueError, match="expected a duration such as"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2GiB", 2 * 2**30),
        ("500MB", 500 * 10**6),
        ("64k", 64_000),
        ("64KiB", 65_536),
        ("1.5 mib", 3 * 2**19),
        ("5TB", 5 * 10**12),
        ("123", 123),
        ("123B", 123),
        (123, 123),
    ],
)
def test_size_is_read(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "large", "-1", "5 potatoes", "GB", "1e9", "iB", "5iB", "٣k", True])
def test_what_is_no_size_is_told_with_an_example(text):
    with pytest.raises(ValueError, match="expected a size such as"):
        parse_size(text)


@pytest.mark.parametrize("text", ["12345678901234567890", "9007199254740993"])
def test_size_in_bytes_is_exact(text):
    assert parse_size(text) == int(text)


def test_all_problems_are_told_at_once_by_name_with_what_is_expected(environment):
    wrong = {
        "CBK_SOURCE_URL": "nonsense",
        "CBK_BROKER_URL": "amqp://x",
        "CBK_BUCKETS": "[1]",
        "CBK_POLL_INTERVAL": "soon",
        "CBK_GRACE_PERIOD": "-1d",
        "CBK_KEEP_VERSIONS": "0",
        "CBK_CONCURRENCY": "many",
        "CBK_ALLOWED_HOSTS": "http://x/, *.good.example, a b",
        "CBK_LEASE": "0.5s",
        "CBK_MAX_FILE_SIZE": "huge",
    }
    for name, value in wrong.items():
        environment.setenv(name, value)
    found = problems()
    assert [problem.partition(":")[0] for problem in found] == sorted(wrong)
    told = "\n".join(found)
    for expected in (
        "expected a database URL such as postgresql+psycopg://",
        "expected a Redis URL such as redis://",
        'expected a JSON object of storage names to bucket folders, such as {"s3": "car-erp"}',
        'expected a duration such as "90s"',
        "'http://x/': expected a host without scheme and path; 'a b': expected host, host:port or *.example.com",
        'expected a size such as "2GiB"',
        "input should be greater than or equal to 1",
    ):
        assert expected in told


@pytest.mark.parametrize("name", ["CBK_POLL_INTERVAL", "CBK_RECONCILE_INTERVAL", "CBK_CONNECT_TIMEOUT", "CBK_READ_TIMEOUT"])
def test_interval_of_nothing_is_refused(environment, name):
    environment.setenv(name, "0s")
    assert [problem.partition(":")[0] for problem in problems()] == [name]


def test_no_grace_at_all_may_be_asked_for(environment):
    environment.setenv("CBK_GRACE_PERIOD", "0")
    assert load_settings().grace_period == timedelta(0)


@pytest.mark.parametrize("text", ["{", '["s3"]', '{"s3": ""}', '{"s3": 1}', '"s3"', "s3=car-erp"])
def test_buckets_that_are_no_map_of_names_are_refused(environment, text):
    environment.setenv("CBK_BUCKETS", text)
    [problem] = problems()
    assert problem.startswith("CBK_BUCKETS: expected")


def test_storage_without_a_bucket_folder_is_its_own(environment):
    environment.setenv("CBK_BUCKETS", '{"s3": "car-erp"}')
    settings = load_settings()
    assert (settings.bucket("s3"), settings.bucket("azure")) == ("car-erp", "azure")


def test_buckets_may_be_empty(environment):
    environment.setenv("CBK_BUCKETS", "")
    assert load_settings().buckets == {}


def test_secret_is_shown_neither_by_settings_nor_by_a_problem(environment):
    environment.setenv("CBK_BROKER_URL", "redis://:hunter2@redis/0")
    environment.setenv("CBK_CATALOG_URL", SOURCE)
    environment.setenv("CBK_FLOWER_AUTH", "dev:hunter2")
    environment.setenv("CBK_NOTIFY", "json://dev:hunter2@host/")
    settings = load_settings()
    assert "hunter2" not in f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"
    for name in ("SOURCE_URL", "CATALOG_URL", "BROKER_URL"):
        environment.setenv(f"CBK_{name}", "reader:hunter2 at the database")
    environment.setenv("CBK_LEASE", "hunter2")
    assert "hunter2" not in str(problems())


@pytest.mark.parametrize("text", ["password", "user:", ":password", "a:b,c:d", "user:pass word"])
def test_flower_auth_that_is_no_user_and_password_is_refused(environment, text):
    environment.setenv("CBK_FLOWER_AUTH", text)
    assert problems() == ["CBK_FLOWER_AUTH: expected user:password, without commas and blanks"]


@pytest.mark.parametrize(
    ("text", "urls"),
    [
        ("", []),
        (" , ", []),
        ("json://host/", ["json://host/"]),
        (
            "mailto://u:p@example.com?to=a@x,b@x, tgram://t/1\nntfy://n",
            ["mailto://u:p@example.com?to=a@x,b@x", "tgram://t/1", "ntfy://n"],
        ),
        (",syslog://,", ["syslog://"]),
    ],
)
def test_urls_of_who_is_told_stand_apart_by_commas_or_blanks(environment, text, urls):
    environment.setenv("CBK_NOTIFY", text)
    assert load_settings().notify_urls == urls


@pytest.mark.parametrize("text", ["hunter2", "hunter2 json://host/", "http:/hunter2"])
def test_who_is_told_is_no_url_and_not_shown(environment, text):
    environment.setenv("CBK_NOTIFY", text)
    assert problems() == ["CBK_NOTIFY: expected Apprise URLs such as mailto://user:password@example.com, apart by commas or blanks"]


@pytest.mark.parametrize(
    "text", ["hunter2", "ftp://host/hunter2", "https:///hunter2", "https://host/hunter2?a=b", "https://host/hun ter2"]
)
def test_heartbeat_is_no_ping_url_and_not_shown(environment, text):
    environment.setenv("CBK_HEARTBEAT_URL", text)
    assert problems() == [
        "CBK_HEARTBEAT_URL: expected the ping URL of a check, such as https://hc-ping.com/<uuid>, without ? and #"
    ]


def test_heartbeat_is_a_secret_and_may_be_empty(environment):
    assert load_settings().heartbeat == ""
    environment.setenv("CBK_HEARTBEAT_URL", "https://hc-ping.com/hunter2")
    assert "hunter2" not in repr(load_settings())
    assert load_settings().heartbeat == "https://hc-ping.com/hunter2"


def test_flower_auth_that_is_empty_is_none(environment):
    environment.setenv("CBK_FLOWER_AUTH", "")
    assert load_settings().flower_auth is None


def test_password_of_the_source_is_there_for_who_connects():
    assert load_settings().source == SOURCE


def test_file_is_read_where_it_is_named(tmp_path, environment):
    environment.delenv("CBK_SOURCE_URL")
    file = tmp_path / "cbk.toml"
    file.write_text(f'source_url = "{SOURCE}"\npoll_interval = "5m"\nkeep_versions = 3\n[buckets]\ns3 = "car-erp"\n')
    settings = load_settings(file)
    assert (settings.source, settings.poll_interval, settings.keep_versions) == (SOURCE, timedelta(minutes=5), 3)
    assert settings.buckets == {"s3": "car-erp"}


def test_file_that_is_named_on_the_command_line_wins_over_the_others(tmp_path, environment):
    for name in ("given", "named", "etc/cbk"):
        path = tmp_path / f"{name}.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'backup_root = "/{path.stem}"\n')
    assert load_settings().backup_root == Path("/cbk")
    environment.setenv("CBK_CONFIG", str(tmp_path / "named.toml"))
    assert load_settings().backup_root == Path("/named")
    assert load_settings(tmp_path / "given.toml").backup_root == Path("/given")


def test_environment_wins_over_the_file(tmp_path, environment):
    file = tmp_path / "cbk.toml"
    file.write_text('poll_interval = "5m"\nlease = "5m"\n')
    environment.setenv("CBK_POLL_INTERVAL", "7s")
    settings = load_settings(file)
    assert (settings.poll_interval, settings.lease) == (timedelta(seconds=7), timedelta(minutes=5))


def test_unknown_name_in_a_file_is_refused_with_the_one_that_was_meant(tmp_path):
    file = tmp_path / "cbk.toml"
    file.write_text('poll_intervall = "5m"\nnonsense = 1\n')
    assert problems(file) == ["unknown setting nonsense", "unknown setting poll_intervall (did you mean poll_interval?)"]


def test_wrong_value_in_a_file_is_told_without_the_value(tmp_path):
    file = tmp_path / "cbk.toml"
    file.write_text('broker_url = "hunter2"\n')
    [problem] = problems(file)
    assert problem == "CBK_BROKER_URL: expected a Redis URL such as redis://127.0.0.1:6379/0"


@pytest.mark.parametrize(
    ("content", "told"),
    [(None, "cannot be read: No such file"), (b"poll_interval = = 1", "is not valid TOML"), (b"\xff\xfe", "is not valid TOML")],
)
def test_file_that_cannot_be_used_is_a_problem_beside_the_others(tmp_path, environment, content, told):
    environment.setenv("CBK_LEASE", "soon")
    file = tmp_path / "cbk.toml"
    if content is not None:
        file.write_bytes(content)
    found = problems(file)
    assert len(found) == 2
    assert any(problem.startswith(str(file)) and told in problem for problem in found)


def test_name_in_the_environment_that_is_no_setting_is_found_with_the_one_that_was_meant():
    environment = ["CBK_POLL_INTERVALL", "CBK_SOURCE_URL", "CBK_CONFIG", "CBK_CELERY_CONFIG", "PATH", "CBK_XYZZY"]
    assert unknown_names(environment) == ["CBK_POLL_INTERVALL (did you mean CBK_POLL_INTERVAL?)", "CBK_XYZZY"]


def test_settings_cannot_be_changed_once_they_are_read():
    with pytest.raises(Exception, match="frozen"):
        load_settings().lease = timedelta(0)
