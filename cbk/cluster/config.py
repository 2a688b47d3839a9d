"""The Celery configuration, made from the settings. `celeryconfig.py` at the top of the repository starts from it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from kombu import Queue

from cbk.jobs.context import threads
from cbk.rules.text.broker_url import parse_broker_url
from cbk.rules.verification import slice_interval
from cbk.settings import Settings, load_settings

QUEUES = ("poll", "backup", "prune", "verify", "dump", "mirror")
KEY_PREFIX = "cbk:"
VISIBILITY_TIMEOUT_SECONDS = 3600
ASK_FOR_DRILLS = timedelta(hours=1)
ASK_FOR_DUMPS = timedelta(minutes=1)
# How far the clocks of two machines may be apart, and the one's messages still reach the other.
CLOCKS_APART = timedelta(hours=1)


def kit_config(settings: Settings | None = None) -> dict[str, Any]:
    """The kit's own configuration. Raises SettingsError."""
    settings = settings or load_settings()
    return (
        _broker(settings)
        | _delivery()
        | _worker(settings)
        | {
            # Beat keeps no file: every entry is an interval, and a poll is sent as soon as beat starts.
            "beat_scheduler": "cbk.cluster.compat.beat_scheduler:Scheduler",
            "beat_schedule": _schedule(settings),
            "timezone": "UTC",
            "enable_utc": True,
        }
    )


def _schedule(settings: Settings) -> dict[str, Any]:
    schedule = {"poll": _every(settings.poll_interval, "cbk.poll"), "watch": _every(settings.poll_interval, "cbk.watch")}
    if settings.verify_every:
        schedule["verify"] = _every(slice_interval(settings.verify_every), "cbk.verify")
    if settings.drill_every:
        # Asked for often, held when due: beat forgets with each restart when it sent the last one.
        schedule["drill"] = _every(min(settings.drill_every, ASK_FOR_DRILLS), "cbk.drill", if_due=True)
    for name in settings.dumps:
        # As above: the catalog tells when one is due, and what was missed while everything was off.
        schedule[f"dump-{name}"] = _every(min(settings.poll_interval, ASK_FOR_DUMPS), "cbk.dump", name=name, if_due=True)
    for name, mirror in settings.mirrors.items():
        schedule[f"mirror-{name}"] = _every(mirror.every, "cbk.mirror", name=name)
    return schedule


def _every(interval: timedelta, task: str, /, **kwargs: object) -> dict[str, Any]:
    """A message that waited for longer than the next one has nothing to add to it, and expires.

    Beat writes by its clock when that is, and a worker goes by its own: for a beat that is behind, all would be over on arrival.
    """
    seconds = interval.total_seconds()
    entry = {"task": task, "schedule": seconds, "options": {"expires": (interval + CLOCKS_APART).total_seconds()}}
    return entry | {"kwargs": kwargs} if kwargs else entry


def _broker(settings: Settings) -> dict[str, Any]:
    # Without `broker_use_ssl`, Kombu takes any certificate for that of a rediss:// server.
    broker = parse_broker_url(settings.broker)
    encrypted = {"broker_use_ssl": dict(broker.tls)} if broker.tls else {}
    return encrypted | {
        "broker_url": broker.celery,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        # Tasks publish from every thread of a worker.
        "broker_pool_limit": threads(settings) + 2,
        "broker_transport_options": {
            # The catalog redelivers after CBK_LEASE; this is only the courier's own second chance.
            "visibility_timeout": VISIBILITY_TIMEOUT_SECONDS,
            "unacked_restore_interval": 10,
            "unacked_restore_throttle": 1,
            "socket_timeout": 30,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 25,
            "global_keyprefix": KEY_PREFIX,
            # No priorities: one list per queue to wait on instead of four.
            "priority_steps": [0],
        },
    }


def _delivery() -> dict[str, Any]:
    return {
        "task_queues": [Queue(name, routing_key=name) for name in QUEUES],
        "task_default_queue": "poll",
        "task_create_missing_queues": False,
        "task_routes": {
            "cbk.poll": {"queue": "poll"},
            "cbk.resync": {"queue": "poll"},
            "cbk.watch": {"queue": "poll"},
            "cbk.backup": {"queue": "backup"},
            "cbk.backup_batch": {"queue": "backup"},
            "cbk.prune": {"queue": "prune"},
            "cbk.verify": {"queue": "verify"},
            "cbk.drill": {"queue": "verify"},
            "cbk.dump": {"queue": "dump"},
            "cbk.mirror": {"queue": "mirror"},
        },
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "task_ignore_result": True,
        "task_send_sent_event": True,
        "task_serializer": "json",
        "result_serializer": "json",
        "accept_content": ["json"],
    }


def _worker(settings: Settings) -> dict[str, Any]:
    return {
        "worker_pool": "threads",
        "worker_concurrency": threads(settings),
        "worker_prefetch_multiplier": 1,
        "worker_send_task_events": True,
        "worker_hijack_root_logger": False,
        "worker_consumer": "cbk.cluster.compat.consumer:Consumer",
        "worker_cancel_long_running_tasks_on_connection_loss": False,
    }
