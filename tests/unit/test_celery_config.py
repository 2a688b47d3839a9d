"""The Celery configuration: what the kit's promises rest on, the operator's file, and how a command ends that cannot start."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from celery.beat import PersistentScheduler, Scheduler
from kombu.utils.imports import symbol_by_name

from cbk.cluster.config import kit_config
from cbk.errors import SettingsError
from cbk.jobs.context import downloads
from cbk.settings import Settings

REPOSITORY = Path(__file__).parents[2]
SOURCE = "sqlite:////nowhere/app.db"
TASKS = "from cbk.celery import app; app.loader.import_default_modules(); import json; print(json.dumps(sorted(app.tasks)))"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """No setting of the machine's own."""
    for name in list(os.environ):
        if name.startswith(("CBK_", "FLOWER_")):
            monkeypatch.delenv(name)
    return monkeypatch


def config(**settings):
    return kit_config(Settings(source_url=SOURCE, **settings))


def routed(task):
    return config()["task_routes"][task]["queue"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", {"ssl_cert_reqs": "required"}),
        ("?ssl_ca_certs=/etc/cbk/ca.pem", {"ssl_cert_reqs": "required", "ssl_ca_certs": "/etc/cbk/ca.pem"}),
        ("?ssl_cert_reqs=none", {"ssl_cert_reqs": "none", "ssl_check_hostname": False}),
    ],
)
def test_certificate_of_a_broker_with_tls_is_checked_unless_the_url_says_otherwise(query, expected):
    settings = Settings(source_url="sqlite:////nowhere.db", broker_url=f"rediss://cbk:secret@redis.example:6379/0{query}")
    assert kit_config(settings)["broker_use_ssl"] == expected


def test_broker_without_tls_gets_none():
    settings = Settings(source_url="sqlite:////nowhere.db", broker_url="redis://redis.example:6379/0")
    assert "broker_use_ssl" not in kit_config(settings)


def test_every_queue_of_the_contract_is_served_by_a_bare_worker():
    assert [queue.name for queue in config()["task_queues"]] == ["poll", "backup", "prune", "verify", "dump", "mirror"]


@pytest.mark.parametrize(
    ("task", "queue"),
    [
        ("cbk.poll", "poll"),
        ("cbk.backup", "backup"),
        ("cbk.backup_batch", "backup"),
        ("cbk.resync", "poll"),
        ("cbk.watch", "poll"),
        ("cbk.prune", "prune"),
        ("cbk.verify", "verify"),
        ("cbk.drill", "verify"),
        ("cbk.dump", "dump"),
        ("cbk.mirror", "mirror"),
    ],
)
def test_task_goes_to_its_queue(task, queue):
    assert routed(task) == queue
    assert queue in {served.name for served in config()["task_queues"]}


def test_misspelt_queue_is_refused_instead_of_being_made():
    assert config()["task_create_missing_queues"] is False


def test_message_is_acknowledged_when_its_work_is_done():
    context = config()
    assert (context["task_acks_late"], context["task_reject_on_worker_lost"], context["worker_prefetch_multiplier"]) == (
        True,
        True,
        1,
    )


def test_results_are_kept_nowhere():
    context = config()
    assert context["task_ignore_result"] is True
    assert "result_backend" not in context


def test_nothing_but_json_travels():
    context = config()
    assert (context["task_serializer"], context["result_serializer"], context["accept_content"]) == ("json", "json", ["json"])


def test_each_queue_is_one_list():
    assert config()["broker_transport_options"]["priority_steps"] == [0]


def test_message_of_a_worker_that_died_is_looked_for_often():
    options = config()["broker_transport_options"]
    assert (options["unacked_restore_interval"], options["unacked_restore_throttle"]) == (10, 1)
    assert options["visibility_timeout"] == 3600


@pytest.mark.parametrize(("interval", "seconds"), [("60s", 60.0), ("250ms", 0.25), ("1h", 3600.0)])
def test_poll_expires_an_interval_later_and_an_hour_that_the_clocks_of_two_machines_may_be_apart(interval, seconds):
    entry = config(poll_interval=interval)["beat_schedule"]["poll"]
    assert entry == {"task": "cbk.poll", "schedule": seconds, "options": {"expires": seconds + 3600}}


def test_watch_comes_with_each_poll():
    entry = {"task": "cbk.watch", "schedule": 60.0, "options": {"expires": 3660.0}}
    assert config()["beat_schedule"]["watch"] == entry


def test_verification_is_sent_in_slices_that_expire_as_a_poll_does():
    assert config()["beat_schedule"]["verify"] == {"task": "cbk.verify", "schedule": 600.0, "options": {"expires": 4200.0}}
    assert config(verify_every="1h")["beat_schedule"]["verify"]["schedule"] == 180.0


def test_each_dump_is_asked_for_each_minute_and_the_catalog_knows_when_one_is_due():
    dumps = {"app": {"url": "postgresql://h/app"}, "shop": {"url": "sqlite:///srv/shop.db"}}
    schedule = config(dumps=dumps, poll_interval="1h")["beat_schedule"]
    entry = {"task": "cbk.dump", "schedule": 60.0, "options": {"expires": 3660.0}, "kwargs": {"name": "app", "if_due": True}}
    assert schedule["dump-app"] == entry
    assert "dump-shop" in schedule


def test_drill_is_asked_for_often_because_beat_forgets_when_it_sent_the_last():
    entry = {"task": "cbk.drill", "schedule": 3600.0, "options": {"expires": 7200.0}, "kwargs": {"if_due": True}}
    assert config(drill_every="7d")["beat_schedule"]["drill"] == entry
    assert config(drill_every="5s")["beat_schedule"]["drill"]["schedule"] == 5.0


def test_what_is_switched_off_is_not_sent():
    assert set(config(verify_every=0)["beat_schedule"]) == {"poll", "watch"}


def test_beat_keeps_no_file():
    scheduler = symbol_by_name(config()["beat_scheduler"])
    assert issubclass(scheduler, Scheduler)
    assert not issubclass(scheduler, PersistentScheduler)


def test_events_are_on_for_flower():
    context = config()
    assert (context["worker_send_task_events"], context["task_send_sent_event"]) == (True, True)


@pytest.mark.parametrize(("workers", "each"), [(1, 8), (2, 4), (3, 3), (9, 1)])
def test_workers_of_one_machine_share_the_downloads(workers, each):
    assert downloads(Settings(source_url=SOURCE, workers=workers)) == each


def test_downloads_that_were_asked_for_are_those_of_each_worker():
    assert downloads(Settings(source_url=SOURCE, workers=2, concurrency=8)) == 8


def test_concurrency_is_the_settings_and_leaves_room_in_the_pool_of_connections():
    context = config(concurrency=40)
    assert context["worker_concurrency"] == 51  # 40 downloads, 10 that store, and a poll
    assert context["broker_pool_limit"] > 40
    assert config()["worker_concurrency"] == 11


def test_redis_that_went_away_is_waited_for_without_end():
    context = config()
    assert context["broker_connection_retry_on_startup"] is True
    assert context["broker_connection_max_retries"] is None


def test_configuration_without_settings_raises_what_is_wrong(environment, tmp_path):
    environment.setattr("cbk.settings.DEFAULT_CONFIG", tmp_path / "none.toml")
    with pytest.raises(SettingsError, match="CBK_SOURCE_URL: is required"):
        kit_config()


# ---- the operator's file ---------------------------------------------------------------------------------------------------

OVERRIDE = """\
import os

from cbk.cluster.config import kit_config

globals().update(kit_config())
worker_concurrency = 77
_private = 1
Capital = 2
"""


@pytest.fixture
def app_module(environment):
    """The module, imported where there are settings: it makes the app."""
    environment.setenv("CBK_SOURCE_URL", SOURCE)
    from cbk.cluster import app as module  # noqa: PLC0415 - see above

    return module


@pytest.fixture
def operators_config(app_module, environment, tmp_path):
    """What the operator's file adds, looked for from a folder of the test's own."""
    environment.chdir(tmp_path)
    return app_module._operators_config


def test_operators_file_may_be_missing(operators_config):
    assert operators_config() == {}


def test_operators_file_in_the_working_folder_overrides_the_kit_and_leaves_the_rest(operators_config, tmp_path):
    (tmp_path / "celeryconfig.py").write_text(OVERRIDE)
    assert operators_config() == kit_config() | {"worker_concurrency": 77}


@pytest.mark.parametrize("named", ["operators.py", "{folder}/operators.py", "operators"])
def test_operators_file_is_found_where_it_is_named(operators_config, environment, tmp_path, named):
    (tmp_path / "operators.py").write_text(OVERRIDE)
    (tmp_path / "celeryconfig.py").write_text("worker_concurrency = 1\n")
    environment.syspath_prepend(tmp_path)
    environment.setenv("CBK_CELERY_CONFIG", named.format(folder=tmp_path))
    assert operators_config()["worker_concurrency"] == 77


def test_delivered_operators_file_changes_nothing(operators_config, environment):
    environment.setenv("CBK_CELERY_CONFIG", str(REPOSITORY / "celeryconfig.py"))
    assert operators_config() == kit_config()


@pytest.mark.parametrize(
    ("named", "content", "told"),
    [
        ("", "a = 1\nworker_concurrency = nonsense\n", "celeryconfig.py: line 2: NameError: name 'nonsense' is not defined"),
        ("", "a = = 1\n", "celeryconfig.py: SyntaxError: invalid syntax (celeryconfig.py, line 1)"),
        ("no_such_module", "", "no_such_module: ModuleNotFoundError: No module named 'no_such_module'"),
        ("no_such.py", "", "no_such.py: FileNotFoundError: "),
    ],
)
def test_operators_file_that_is_broken_is_told_with_the_place(operators_config, environment, tmp_path, named, content, told):
    (tmp_path / "celeryconfig.py").write_text(content)
    environment.setenv("CBK_CELERY_CONFIG", named)
    with pytest.raises(SettingsError) as caught:
        operators_config()
    [problem] = caught.value.problems
    assert problem.startswith(told)
    assert "CBK_CELERY_CONFIG" in caught.value.hint


def test_settings_that_the_operators_file_finds_wrong_are_told_as_such(operators_config, environment, tmp_path):
    (tmp_path / "celeryconfig.py").write_text(OVERRIDE)
    environment.setenv("CBK_LEASE", "soon")
    with pytest.raises(SettingsError, match="CBK_LEASE: expected a duration"):
        operators_config()


# ---- Flower ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def prepare_flower(app_module):
    """A function that gives Flower's environment."""

    def prepare(*, auth="dev:secret", port=5555, **flower):
        app_module.prepare_flower(Settings(source_url=SOURCE, flower_auth=auth, flower_port=port), flower)
        return flower

    return prepare


def test_flower_listens_on_loopback_behind_the_password(prepare_flower):
    assert prepare_flower(port=7777) == {
        "FLOWER_ADDRESS": "127.0.0.1",
        "FLOWER_PORT": "7777",
        "FLOWER_BASIC_AUTH": "dev:secret",
        "FLOWER_TASKS_COLUMNS": "name,args,state,result,received,runtime,worker",
        "FLOWER_MAX_TASKS": "10000",
    }


def test_what_the_operator_set_for_flower_stays(prepare_flower):
    own = {"FLOWER_ADDRESS": "10.0.0.1", "FLOWER_PORT": "80", "FLOWER_BASIC_AUTH": "me:mine"}
    own |= {"FLOWER_TASKS_COLUMNS": "name", "FLOWER_MAX_TASKS": "5"}
    assert prepare_flower(**own) == own


@pytest.mark.parametrize("flower", [{}, {"FLOWER_BASIC_AUTH": ""}, {"FLOWER_AUTO_REFRESH": "1"}])
def test_flower_without_a_password_is_refused(prepare_flower, flower):
    with pytest.raises(SettingsError, match="CBK_FLOWER_AUTH: is required"):
        prepare_flower(auth=None, **flower)


# ---- real commands ---------------------------------------------------------------------------------------------------------


class Commands:
    """Real commands in a folder of their own, all started at once: each takes a second or two to import Celery."""

    def __init__(self, folder):
        self.folder = folder
        self._running = {}
        self._done = {}

    def start(self, name, *arguments, **environment):
        """Run `python arguments...` in an empty folder."""
        folder = self.folder / name
        folder.mkdir()
        plain = {key: value for key, value in os.environ.items() if not key.startswith(("CBK_", "FLOWER_", "CELERY_"))}
        self._running[name] = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=folder,
            env=plain | {"CBK_CONFIG": str(self.folder / "cbk.toml")} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def done(self, name):
        """(exit code, standard output, standard error) of a command."""
        if name not in self._done:
            process = self._running[name]
            out, err = process.communicate(timeout=120)
            self._done[name] = (process.returncode, out, err)
        return self._done[name]

    def report(self, name):
        code, out, err = self.done(name)
        assert (code, err) == (0, "")
        return out

    def kill(self):
        for name, process in self._running.items():
            if process.poll() is None:
                process.kill()
                self.done(name)


CELERY = ("-m", "celery", "-A", "cbk")


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    folder = tmp_path_factory.mktemp("commands")
    (folder / "cbk.toml").write_text(
        'source_url = "postgresql+psycopg://reader:hunter2@db/app"\nbroker_url = "redis://:hunter2@127.0.0.1:1/0"\n'
    )
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "celeryconfig.py").write_text(OVERRIDE)
    commands = Commands(folder)
    commands.start("plain", *CELERY, "report")
    commands.start("workdir", "-m", "celery", "--workdir", str(folder / "elsewhere"), "-A", "cbk", "report")
    commands.start("wrong settings", *CELERY, "worker", CBK_LEASE="soon", CBK_BROKER_URL="amqp://hunter2")
    commands.start("flower", *CELERY, "flower")
    commands.start("tasks", "-c", TASKS)
    yield commands
    commands.kill()


def test_command_runs_from_any_folder_without_an_operators_file(commands):
    report = commands.report("plain")
    assert "worker_concurrency: 11" in report
    assert "results:disabled" in report


def test_report_shows_no_password(commands):
    code, out, err = commands.done("plain")
    assert "hunter2" not in out + err
    assert code == 0


def test_operators_file_in_the_folder_that_workdir_names_overrides_the_kit(commands):
    report = commands.report("workdir")
    assert "worker_concurrency: 77" in report
    assert "task_acks_late: True" in report


def test_task_names_are_those_of_the_contract(commands):
    code, out, err = commands.done("tasks")
    assert code == 0, err
    ours = {name for name in json.loads(out) if not name.startswith("celery.")}
    names = "poll backup backup_batch prune resync verify drill watch dump mirror"
    assert ours == {f"cbk.{name}" for name in names.split()}


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("wrong settings", ["CBK_LEASE: expected a duration such as", "CBK_BROKER_URL: expected a Redis URL", "HINT: "]),
        ("flower", ["CBK_FLOWER_AUTH: is required for Flower (user:password)", "HINT: Flower can stop workers"]),
    ],
)
def test_command_that_cannot_start_ends_with_2_and_says_why_without_a_traceback(commands, name, told):
    code, out, err = commands.done(name)
    assert code == 2
    assert err.startswith("cbk: settings are not valid:\n")
    assert [words for words in told if words not in err] == []
    assert "Traceback" not in out + err
    assert "hunter2" not in out + err
