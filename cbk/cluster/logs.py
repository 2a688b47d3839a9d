"""One line of facts per unit of work, to standard error or a file; links and passwords never."""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Mapping
from logging.handlers import WatchedFileHandler

from cbk.cluster.outage_log import OneLineOutages
from cbk.model import Summary

# Characters of a message, of a fact and of a traceback: more is no line for people, and would fill the disk of whoever keeps it.
# A key has 4 KB at the most.
LONGEST = 5000
LONGEST_TRACEBACK = 20_000

# A second wall: nothing of ours puts a link or a password into a message, but libraries may.
# Each looks at a character a few times at the most: keys of 4 KB come from rows, and a log line must not be a way to stop a worker.
_QUERY = re.compile(r"(?<=\S)\?[^\s?'\"<>]+=[^\s'\"<>]+")
_SIGNATURE = re.compile(r"((?:signature|credential|token|sig)=)[^\s&]+", re.IGNORECASE)
_WORD = re.compile(r"\S+")
_USER = re.compile(r"://[^\s:/@'\"]*:")


def redact(text: str) -> str:
    """The text without the query part of any link, without signatures and without the password of any URL."""
    return _WORD.sub(_without_password, _SIGNATURE.sub(r"\1***", _QUERY.sub("?***", text)))


def _without_password(word: re.Match[str]) -> str:
    """A word without what is between the first user name in it and the last @."""
    text = word[0]
    end = text.rfind("@")
    user = _USER.search(text) if end > 0 else None
    return f"{text[: user.end()]}***{text[end:]}" if user and user.end() < end else text


class FactsFormatter(logging.Formatter):
    """`2026-11-24T05:55:21Z info cbk.backup stored key="cars/a b.png" version=1` (logfmt), redacted; a traceback follows below."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%SZ"
    default_msec_format = None

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        facts: Mapping[str, object] = getattr(record, "facts", {})
        fields = "".join(f" {name}={_quote(value)}" for name, value in facts.items() if value is not None and value != "")
        message = _one_line(_shortened(record.getMessage(), LONGEST))
        line = f"{self.formatTime(record)} {record.levelname.lower()} {record.name} {message}{fields}"
        if record.exc_info:
            line += "\n" + _shortened(self.formatException(record.exc_info), LONGEST_TRACEBACK)
        if record.stack_info:
            line += "\n" + _shortened(self.formatStack(record.stack_info), LONGEST_TRACEBACK)
        return redact(line)


def configure(level: int | str | None = None, file: str | None = None) -> None:
    """Send every logger's lines to standard error, or to `file`, from `level` on (default: info; Celery's own from warning on).

    A file that logrotate has moved away is opened anew.
    """
    handler = WatchedFileHandler(file, encoding="utf-8", errors="backslashreplace") if file else logging.StreamHandler(sys.stderr)
    handler.setFormatter(FactsFormatter())
    handler.addFilter(OneLineOutages())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level or logging.INFO)
    # Celery's own default is warning; the kit's one line per unit of work is there all the same, and more where more is asked for.
    logging.getLogger("cbk").setLevel(min(root.level, logging.INFO))
    # Celery writes two lines per task at info, about a millisecond each; ours says more. Alembic writes some whenever it is asked
    # which release a PostgreSQL catalog is of.
    for name in ("celery.worker.strategy", "celery.app.trace", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("celery.app.trace").addFilter(_is_no_rejection)


def _is_no_rejection(record: logging.LogRecord) -> bool:
    """Celery warns, with a traceback, of each message that a busy worker puts back into its queue (`cluster/tasks.py`)."""
    data = getattr(record, "data", None)
    return not (
        isinstance(data, dict) and data.get("description") == "rejected" and str(data.get("name", "")).startswith("cbk.backup")
    )


def get(name: str) -> logging.Logger:
    """The kit's logger of this name."""
    return logging.getLogger(f"cbk.{name}")


def write_summary(name: str, summary: Summary, task_id: str | None) -> None:
    """The one line of a unit of work."""
    get(name).info(summary.outcome, extra={"facts": {**summary.facts, "task": task_id}})


def _quote(value: object) -> str:
    text = _shortened(str(value), LONGEST)
    if re.fullmatch(r"[\w.:/+@~,-]+", text):
        return text
    escaped = _one_line(text).replace('"', "'")
    return f'"{escaped}"'


def _shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest]}... ({len(text)} characters)"


def _one_line(text: str) -> str:
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
