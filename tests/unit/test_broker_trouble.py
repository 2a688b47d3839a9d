"""What Redis says when it fails, in words for a person."""

import pytest
from redis import exceptions

from cbk.rules.cluster.broker_trouble import describe_trouble


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (exceptions.ResponseError("MISCONF Valkey is configured to save RDB snapshots, but it's ..."), "cannot save to its disk"),
        (
            exceptions.ResponseError("Command # 1 (ZREM cbk:unacked_index x) of pipeline caused error: MISCONF Valkey is ..."),
            "cannot save to its disk",
        ),
        (exceptions.BusyLoadingError("Redis is loading the dataset in memory"), "still loads"),
        (exceptions.ReadOnlyError("You can't write against a read only replica."), "is a replica"),
        (exceptions.NoPermissionError("User cbk has no permissions to run the 'brpop' command"), "the 'brpop' command"),
        (exceptions.AuthenticationError("invalid username-password pair or user is disabled."), "the user or the password"),
        (exceptions.OutOfMemoryError("command not allowed when used memory > 'maxmemory'."), "memory of Redis is full"),
        (exceptions.ResponseError("NOREPLICAS Not enough good replicas to write."), "too few of its replicas"),
        (exceptions.ConnectionError("Error 111 connecting to 127.0.0.1:1. Connection refused."), "Redis is away"),
        (exceptions.TimeoutError("Timeout connecting to server"), "Redis is away"),
        (
            exceptions.ConnectionError("Error 1 connecting to h:1. certificate verify failed: certificate has expired (_ssl.c:1)."),
            "cannot be trusted: certificate has expired",
        ),
        (exceptions.ResponseError("ERR something new"), "Redis refuses"),
    ],
)
def test_each_failure_is_named_and_has_a_deed(error, words):
    trouble = describe_trouble(type(error).__name__, str(error))
    assert words in trouble.message
    assert trouble.hint


def test_long_answer_is_one_short_line():
    trouble = describe_trouble("ResponseError", "ERR " + "x" * 5000 + "\nmore")
    assert len(trouble.message) < 300
    assert "\n" not in trouble.message
