"""Why a message did not get to a service, from what the library that sends it says.

That holds URLs and passwords: none of it is shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus

UNKNOWN_REASON = "it did not take the message"
_OF_AN_ERROR = re.compile("error|exception|failed", re.IGNORECASE)
_OF_A_REQUEST = re.compile(r"^[\w .-]{0,40} (Payload|Headers|[A-Z]+ URL)\b")
_ANSWER = re.compile(r"\berror=(\d{3})\b")
# What is said, and what that means; the first that is found counts, since an exception tells of the attempt around it as well.
_MEANINGS = (
    (re.compile(r"certificate|SSLError|WRONG_VERSION_NUMBER", re.IGNORECASE), "its certificate or TLS cannot be trusted"),
    (
        re.compile(r"SMTPAuthenticationError|\(53[045],|not accepted|authentication", re.IGNORECASE),
        "user or password is not accepted",
    ),
    (re.compile(r"NameResolutionError|name resolution|not known|nodename", re.IGNORECASE), "its host's name is not known"),
    (re.compile(r"refused", re.IGNORECASE), "its host refuses the connection"),
    (re.compile(r"unreachable|no route", re.IGNORECASE), "its host cannot be reached"),
    (re.compile(r"timed out|timeout", re.IGNORECASE), "no answer in time"),
    (re.compile(r"connection error", re.IGNORECASE), "no connection to its host"),
)


def delivery_problem(said: Iterable[str], *, timed_out: bool = False) -> str:
    """The reason in words of our own, and nothing of what was `said`.

    >>> delivery_problem(["Failed to send Slack notification: Unauthorized, error=401."])
    'it answers 401 (Unauthorized)'
    >>> delivery_problem(["https://example.com/secret"])
    'it did not take the message'
    """
    if timed_out:
        return "no answer in time"
    # A payload tells what the message is about, and that may well be a connection that was refused.
    text = "\n".join(line for line in said if _OF_AN_ERROR.search(line) and not _OF_A_REQUEST.search(line))
    answer = _ANSWER.search(text)
    if answer is not None:
        phrase = {status.value: f" ({status.phrase})" for status in HTTPStatus}.get(int(answer[1]), "")
        return f"it answers {answer[1]}{phrase}"
    return next((meaning for pattern, meaning in _MEANINGS if pattern.search(text)), UNKNOWN_REASON)
