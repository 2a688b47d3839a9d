"""What Redis, or the line to it, says when it fails, in words for a person and with the deed that helps.

An answer that refuses is no message that makes no sense: whoever gets one waits, and tries again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

ACL_HINT = "docs/threat-model.md has the rights that the kit's user needs: `cbk doctor` tells which of them it lacks"
AWAY_HINT = "start it (`systemctl status valkey-server redis-server`), or correct CBK_BROKER_URL; work goes on by itself then"


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerTrouble:
    """What is wrong, and what to do."""

    message: str
    hint: str


# By the first word of an answer (the Redis protocol's error prefix), or by the name of the class that redis-py makes of it.
_REFUSALS = {
    "MISCONF": BrokerTrouble(
        message="Redis takes no writes, because it cannot save to its disk",
        hint="make room on the disk of Redis, whose log tells more; work goes on by itself once it could save",
    ),
    "LOADING": BrokerTrouble(
        message="Redis still loads its data from the disk", hint="wait: work goes on by itself once it is ready"
    ),
    "READONLY": BrokerTrouble(
        message="Redis is a replica, which takes no writes",
        hint="wait until the failover is over, or name the primary in CBK_BROKER_URL",
    ),
    "NOREPLICAS": BrokerTrouble(
        message="Redis takes no writes, because too few of its replicas answer",
        hint="start the replicas, or lower min-replicas-to-write; work goes on by itself then",
    ),
    "MASTERDOWN": BrokerTrouble(
        message="Redis is a replica that has lost its primary",
        hint="start the primary, or name another one in CBK_BROKER_URL",
    ),
    "OOM": BrokerTrouble(
        message="the memory of Redis is full",
        hint="raise maxmemory, or find out what else is kept there; `cbk status` tells what waits",
    ),
    "NOPERM": BrokerTrouble(message="Redis denies the kit's user something that it needs", hint=ACL_HINT),
    "NOAUTH": BrokerTrouble(
        message="Redis refuses the user or the password", hint="correct CBK_BROKER_URL, or the user in Redis (ACL LIST)"
    ),
    "MOVED": BrokerTrouble(
        message="Redis is a cluster, which Celery cannot use as a broker", hint="name a server without cluster mode"
    ),
    "CERTIFICATE": BrokerTrouble(
        message="the certificate of Redis cannot be trusted",
        hint="renew the certificate, or name its authority: ?ssl_ca_certs=FILE in CBK_BROKER_URL",
    ),
}
_BY_CLASS = {
    "BusyLoadingError": "LOADING",
    "ReadOnlyError": "READONLY",
    "MasterDownError": "MASTERDOWN",
    "OutOfMemoryError": "OOM",
    "NoPermissionError": "NOPERM",
    "AuthenticationError": "NOAUTH",
    "AuthenticationWrongNumberOfArgsError": "NOAUTH",
    "MovedError": "MOVED",
    "ClusterCrossSlotError": "MOVED",
}
_BY_WORD = {"WRONGPASS": "NOAUTH", "NOREPLICAS": "NOREPLICAS", "CLUSTERDOWN": "MOVED", "-LOADING": "LOADING"}
_IN_A_PIPELINE = re.compile(r"Command # \d+ .*? of pipeline caused error: ", re.DOTALL)
_LONGEST = 200


def describe_trouble(kind: str, said: str) -> BrokerTrouble:
    """The words for an error: `kind` is the name of its class, `said` its text.

    >>> describe_trouble("ResponseError", "MISCONF Valkey is configured to save RDB snapshots, but ...").message
    'Redis takes no writes, because it cannot save to its disk'
    """
    said = _IN_A_PIPELINE.sub("", said).strip()
    word = said.split(" ", 1)[0].rstrip(":")
    if "certificate" in said.lower() or kind == "SSLCertVerificationError":
        trouble = _REFUSALS["CERTIFICATE"]
        return BrokerTrouble(message=f"{trouble.message}: {_reason(said)}", hint=trouble.hint)
    known = _BY_CLASS.get(kind) or _BY_WORD.get(word) or (word if word in _REFUSALS else "")
    if known == "NOPERM":
        return BrokerTrouble(message=f"{_REFUSALS['NOPERM'].message}: {_reason(said)}", hint=ACL_HINT)
    if known:
        return _REFUSALS[known]
    if kind == "ResponseError":
        return BrokerTrouble(message=f"Redis refuses: {_reason(said)}", hint="the log of Redis tells more")
    return BrokerTrouble(message=f"Redis is away: {_reason(said) or kind}", hint=AWAY_HINT)


def _reason(said: str) -> str:
    """The first sentence, on one line."""
    certificate = re.search(r"certificate verify failed: ([^(]+)", said)
    text = certificate[1].strip() if certificate else (said.splitlines() or [""])[0]
    text = text.removeprefix("NOPERM ").rstrip(". ")
    text = text[:1].lower() + text[1:] if text[:2] != text[:2].upper() else text
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
