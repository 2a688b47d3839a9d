"""The Celery app that `celery -A cbk` runs: made from the settings, then from the operator's `celeryconfig.py`, if there is one."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import MutableMapping
from pathlib import Path
from types import ModuleType
from typing import Any

from celery import Celery, signals
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from cbk.cluster import logs
from cbk.cluster.compat import message_guard
from cbk.cluster.config import kit_config
from cbk.cluster.operator_file import find_unnamed
from cbk.cluster.outage_log import trouble_of
from cbk.cluster.worker import gc_tuning, watchdog  # noqa: F401 - they listen to Celery's signals
from cbk.edges.host import name_files_in_utf8
from cbk.errors import CbkError, SettingsError
from cbk.settings import Settings, load_settings


def make_app() -> Celery:
    """The configured app. Raises SettingsError that names every problem."""
    settings = load_settings()
    config = kit_config(settings) | _operators_config()
    if "flower" in sys.argv:
        prepare_flower(settings, os.environ)  # noqa: TID251 - Flower is configured through its environment
    made = Celery("cbk", events="cbk.cluster.compat.event_dispatcher:Events", include=["cbk.cluster.tasks"])
    made.conf.update(config)
    if not made.conf.task_compression:
        message_guard.refuse_compression()
    made.set_default()
    return made


def _operators_config() -> dict[str, Any]:
    module = _find_celeryconfig()
    if module is None:
        return {}
    return {
        name: value for name, value in vars(module).items() if name.islower() and not name.startswith("_") and _is_option(value)
    }


def _is_option(value: object) -> bool:
    return not isinstance(value, ModuleType) and not callable(value)


def _find_celeryconfig() -> ModuleType | None:
    """`CBK_CELERY_CONFIG` (a file or a module), else what is found without being named (`cluster/operator_file.py`)."""
    named = os.environ.get("CBK_CELERY_CONFIG")  # noqa: TID251 - where the configuration is cannot be a setting in it
    path = Path(named).absolute() if named else find_unnamed()
    if path is None:
        return None
    try:
        if named and not named.endswith(".py"):
            return importlib.import_module(named)
        return _run(path)
    except CbkError:
        raise  # it starts from the kit's own configuration
    except Exception as error:
        raise SettingsError(
            [f"{named or path.name}: {_describe(error, path)}"],
            hint="the operator's Celery configuration is named by CBK_CELERY_CONFIG, or is celeryconfig.py in the working folder",
        ) from error


def _describe(error: Exception, path: Path) -> str:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    where = f"line {lines[-1]}: " if lines else ""
    return f"{where}{type(error).__name__}: {error}"


def _run(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("celeryconfig", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# A task's arguments are the name of its object, and its result is how it ended. Flower keeps tasks in memory: ten times as
# many, its own default, are much for a small machine.
FLOWER_COLUMNS = "name,args,state,result,received,runtime,worker"
FLOWER_TASKS = 10_000


def prepare_flower(settings: Settings, environment: MutableMapping[str, str]) -> None:
    """Flower's defaults: loopback only, behind a password, tasks by their objects' names. What the operator has set stays.

    Raises SettingsError without a password.
    """
    environment.setdefault("FLOWER_ADDRESS", "127.0.0.1")
    environment.setdefault("FLOWER_PORT", str(settings.flower_port))
    environment.setdefault("FLOWER_TASKS_COLUMNS", FLOWER_COLUMNS)
    environment.setdefault("FLOWER_MAX_TASKS", str(FLOWER_TASKS))
    if settings.flower_auth is not None:
        environment.setdefault("FLOWER_BASIC_AUTH", settings.flower_auth.get_secret_value())
    # An empty value is no password.
    if not any(environment.get(name) for name in ("FLOWER_BASIC_AUTH", "FLOWER_AUTH")):
        raise SettingsError(
            ["CBK_FLOWER_AUTH: is required for Flower (user:password)"], hint="Flower can stop workers: it is never started open"
        )


@signals.setup_logging.connect
def _log(loglevel: int | str | None = None, logfile: str | None = None, **_ignored: object) -> None:
    logs.configure(loglevel, logfile)


@signals.celeryd_init.connect
def _name_files_in_utf8(**_ignored: object) -> None:
    name_files_in_utf8()


@signals.beat_init.connect
def _poll_at_once(**_ignored: object) -> None:
    """The first poll does not wait for its interval. A broker that is away now gets the poll that beat sends next."""
    entry = app.conf.beat_schedule["poll"]
    try:
        app.send_task("cbk.poll", **entry["options"], retry=False)
    except (RedisError, OperationalError, OSError) as error:
        trouble = trouble_of(error)
        logs.get("beat").warning("first poll not sent", extra={"facts": {"reason": trouble.message, "hint": trouble.hint}})


app = make_app()
