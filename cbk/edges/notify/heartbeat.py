"""The dead man's switch: a service that tells people when it was not called for long (Healthchecks' API: `/fail` is bad news).

Its URL is a secret: whoever has it can call it. Neither log nor error shows it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from time import monotonic

import requests

# For the connection, and for each silence after it.
HEARTBEAT_TIMEOUT_SECONDS = (5.0, 10.0)
# The same news is not sent more often: such services slow down who calls them all the time.
SHORTEST_INTERVAL_SECONDS = 60.0

logger = logging.getLogger(__name__)


class _HideSecrets(logging.Filter):
    """urllib3 writes paths into its log, some of them as warnings, and the path is the secret. None of it is worth that."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Nothing passes."""
        del record
        return False


for _name in ("urllib3.connectionpool", "urllib3.connection", "urllib3.response", "urllib3.util.retry"):
    logging.getLogger(_name).addFilter(_HideSecrets())


class Heartbeat:
    """Calls `url`; with an empty one, it calls nobody."""

    def __init__(self, url: str, *, uptime: Callable[[], float] = monotonic) -> None:
        self._url = url.rstrip("/")
        self._uptime = uptime
        self._sent = ""
        self._sent_at = float("-inf")

    @property
    def is_configured(self) -> bool:
        """Whether there is anybody to call."""
        return bool(self._url)

    def beat(self) -> bool | None:
        """Everything is protected. Whether that was heard; None where it was said a moment ago, or nobody listens."""
        return self._send("", "")

    def fail(self, kinds: Iterable[str]) -> bool | None:
        """Something is not well: the kinds of the problems, no names. Whether that was heard, as above."""
        return self._send("/fail", "\n".join(kinds))

    def _send(self, path: str, text: str) -> bool | None:
        news = f"{path} {text}"
        if not self._url or (news == self._sent and self._uptime() - self._sent_at < SHORTEST_INTERVAL_SECONDS):
            return None
        problem = _post(self._url + path, text)
        if problem:
            logger.warning("heartbeat not sent", extra={"facts": {"reason": problem}})
            return False
        self._sent, self._sent_at = news, self._uptime()
        return True


def _post(url: str, text: str) -> str:
    """Why the call was not taken; empty where it was. The answer's body is not read, and no redirect followed with the secret."""
    try:
        with (
            _direct_session() as session,
            session.post(url, data=text.encode(), timeout=HEARTBEAT_TIMEOUT_SECONDS, allow_redirects=False, stream=True) as answer,
        ):
            return "" if answer.ok and not answer.is_redirect else f"the answer is {answer.status_code}"
    except (requests.RequestException, ValueError) as error:
        return type(error).__name__


def _direct_session() -> requests.Session:
    """The switch is called in the way that is configured, and not by a proxy that somebody's shell names."""
    session = requests.Session()
    session.trust_env = False
    return session
