"""What goes wrong on the application's side, each with a hint of what to do."""

from __future__ import annotations


class AppError(Exception):
    """What happened; `hint` says what to do about it, `exit_code` is the command's: 1 failed, 2 wrong usage or settings."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class AppUsageError(AppError):
    """What was asked for cannot be meant."""

    exit_code = 2


class StoreError(AppError):
    """The object storage did not answer, or not as it should."""


class ObjectGone(StoreError):
    """The object is not there, or not any more."""
