"""What the arguments of a task may be. Whoever can write to Redis can send anything that JSON can say."""

from __future__ import annotations

from cbk.errors import UsageError
from cbk.rules.backup.batches import LARGEST

# Longer than any Id, key or storage that a row may have.
LONGEST_TEXT = 5000
_ID_NUMBERS = range(2**63)


def read_id(value: object) -> str:
    """The Id of a row: a number or a text. Raises UsageError."""
    return read_text(str(value) if isinstance(value, int) and not isinstance(value, bool) and abs(value) in _ID_NUMBERS else value)


def read_ids(value: object) -> list[str]:
    """The Ids of several rows, no more than a message of the kit's holds. Raises UsageError."""
    if not isinstance(value, list) or len(value) > LARGEST:
        raise UsageError(f"expected at most {LARGEST} Ids, not {_describe(value)}")
    return [read_id(each) for each in value]


def read_number(value: object) -> int:
    """One of the catalog's own numbers. Raises UsageError."""
    if isinstance(value, bool) or not isinstance(value, int) or value not in _ID_NUMBERS:
        raise UsageError(f"expected a number of the catalog's, not {_describe(value)}")
    return value


def read_text(value: object) -> str:
    """A name, or the start of one. Raises UsageError."""
    if not isinstance(value, str) or len(value) > LONGEST_TEXT:
        raise UsageError(f"expected an Id or a name, not {_describe(value)}", hint="arguments are row Ids, such as --args='[17]'")
    return value


def _describe(value: object) -> str:
    if isinstance(value, str):
        return f"{len(value)} characters"
    return f"a number of {value.bit_length()} bits" if isinstance(value, int) else f"a value of type {type(value).__name__}"
