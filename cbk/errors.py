"""Everything that can go wrong, in one tree.

    CbkError
    ├── UsageError                 the command cannot be understood                    exit 2
    ├── SettingsError              one or more settings are wrong (all are listed)     exit 2
    ├── OutputLost                 what a command prints cannot be written
    ├── SourceError                the application's database
    │   ├── SourceUnavailable        away, slow, or refusing us now                    retryable
    │   └── SourceSchemaError        a table or a required column is missing
    ├── CatalogError               the kit's own database
    │   ├── CatalogUnavailable       away or locked now                                retryable
    │   ├── CatalogOutdated          not made yet, or of another release
    │   │   └── CatalogMissing         not where it should be; CatalogUnavailable as well  retryable
    │   ├── CatalogDamaged           a file that is no catalog, or is broken
    │   └── CatalogMisplaced         SQLite on a network share
    ├── BrokerUnavailable          Redis is away                                       retryable
    ├── ArchiveError               the backup disk
    │   ├── RootMissing              the disk is not mounted, or is another one
    │   ├── DiskFull                 no room left
    │   ├── DiskFailed               the disk answers with an I/O error                retryable
    │   ├── CopyMissing              a copy that should be there is not
    │   ├── CopyExists               a copy is there already, and is not overwritten
    │   └── CopyCorrupt              a copy does not inflate to the bytes it stands for
    │       └── CopySwapped            a good copy, but of something else
    ├── DestinationError           the place that files are restored to
    │   └── DestinationUnavailable   away, or refusing us now                          retryable
    ├── DumpError                  a dump of a database
    │   ├── DumpIncomplete           it lacks its end: it was cut short                retryable
    │   ├── DumpBroken               its tool or its connection ended early            retryable
    │   ├── DumpUnavailable          the database or its host is away                  retryable
    │   ├── DumpRefused              password, key or rights are not accepted
    │   ├── ToolMissing              a program is not on this machine
    │   ├── ToolTooOld               the server is newer than the program
    │   └── DrillFailed              it does not restore to what was dumped
    ├── MirrorError                a further place for copies
    │   └── MirrorUnavailable        away, not the one that is known, or refusing us now   retryable
    ├── InventoryUnreadable        the application's list of its bucket makes no sense
    ├── ClockDistrusted            the clock went back, jumped ahead, or is not kept
    ├── Busy                       as much is under way as this process may have       retryable
    ├── LeaseLost                  another worker holds this piece of work now
    └── DownloadError              an object could not be fetched
        ├── LinkForbidden            the link points where we do not fetch from        (declined)
        ├── TooLarge                 larger than allowed                               (declined)
        ├── LinkExpired              the signed link has died                          (expired)
        ├── LinkDenied               the origin refuses, for another reason            (failed) retryable
        ├── ObjectMissing            404 or 410                                        (missing)
        ├── HashMismatch             complete, but not the bytes of the row            (mismatch) retryable
        ├── NotTheObject             an answer that is not the object                  (failed) retryable
        ├── TransferBroken           cut, stalled, or of the wrong length              (failed) retryable
        └── OriginUnavailable        429 or 5xx, name look-up, connection refused      (failed) retryable

A class says whether a retry helps (`retryable`), how a command ends (`exit_code`) and, for downloads, what becomes of the version
(`state`). An instance says what happened (`message`: lower case, no full stop, never a link or a secret) and what the person
should do (`hint`). Every error survives pickling, because a prefork worker hands its children's errors to the parent that way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar


def _restore(cls: type[CbkError], args: tuple[Any, ...], attributes: dict[str, Any]) -> CbkError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(attributes)
    return error


class CbkError(Exception):
    """What happened, in `message`, and what to do about it, in `hint`."""

    retryable: ClassVar[bool] = False
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.args, self.__dict__)


class UsageError(CbkError):
    """The command or task arguments make no sense."""

    exit_code = 2


class SettingsError(CbkError):
    """Settings are wrong; `problems` names each of them with what is expected."""

    exit_code = 2

    def __init__(self, problems: Sequence[str], *, hint: str | None = None) -> None:
        self.problems = tuple(problems)
        lines = "".join(f"\n  {problem}" for problem in self.problems)
        super().__init__(f"settings are not valid:{lines}", hint=hint)


class OutputLost(CbkError):
    """What a command prints cannot be written: its disk is full, or it has gone."""


class SourceError(CbkError):
    """The application's database."""


class SourceUnavailable(SourceError):
    """It is away, slow, or refuses us now; the next poll carries on."""

    retryable = True


class SourceSchemaError(SourceError):
    """A table or a required column is not there."""


class CatalogError(CbkError):
    """The kit's own database."""


class CatalogUnavailable(CatalogError):
    """It is away or locked now."""

    retryable = True


class CatalogOutdated(CatalogError):
    """Its tables are not there, or are those of another release."""


class CatalogMissing(CatalogOutdated, CatalogUnavailable):
    """It is not where it should be: not made yet, lost, or on a disk that is away now."""


class CatalogDamaged(CatalogError):
    """Its file is no database, or a broken one: a retry does not help."""


class CatalogMisplaced(CatalogError):
    """SQLite on a network share loses data."""


class BrokerUnavailable(CbkError):
    """Redis is away."""

    retryable = True


class ArchiveError(CbkError):
    """The backup disk."""


class RootMissing(ArchiveError):
    """The backup root has no identity, or another one's: most likely the disk is not mounted."""


class DiskFull(ArchiveError):
    """There is no room left; a retry helps only after somebody made some."""


class DiskFailed(ArchiveError):
    """The disk answers with an error of its own."""

    retryable = True


class CopyMissing(ArchiveError):
    """A copy that the catalog knows is not on the disk."""


class CopyExists(ArchiveError):
    """Something lies where a new copy should go; nothing on the disk is ever overwritten."""


class CopyCorrupt(ArchiveError):
    """A copy does not inflate to the bytes that its row and its header stand for."""


class CopySwapped(CopyCorrupt):
    """A good copy of something else lies in its place."""


class DestinationError(CbkError):
    """A file cannot be put where it is to be restored to."""


class DestinationUnavailable(DestinationError):
    """The target is away, or refuses us now."""

    retryable = True


class DumpError(CbkError):
    """A dump of a database."""


class DumpIncomplete(DumpError):
    """What came lacks the end that its format has, whatever its tool exited with."""

    retryable = True


class DumpBroken(DumpError):
    """The tool that dumps, or the connection to it, ended early or fell silent."""

    retryable = True


class DumpUnavailable(DumpError):
    """The database, or the host that it is on, cannot be reached now."""

    retryable = True


class DumpRefused(DumpError):
    """The server does not accept the user, the password, the key or the rights; or it is not the server that it should be."""


class ToolMissing(DumpError):
    """A program that the dump needs is not on this machine."""


class ToolTooOld(DumpError):
    """The server is of a newer release than the program that is to dump it."""


class DrillFailed(DumpError):
    """A dump does not restore, or not to what was noted when it was taken."""


class MirrorError(CbkError):
    """A further place for copies: it cannot be used like this."""


class MirrorUnavailable(MirrorError):
    """It is away, is not the one that is known, or refuses us now; the next pass carries on."""

    retryable = True


class InventoryUnreadable(CbkError):
    """The application's list of what its bucket holds makes no sense, or is not whole."""


class ClockDistrusted(CbkError):
    """Nothing is pruned, and no grace begins, by a clock that cannot be trusted."""


class Busy(CbkError):
    """A process has as much work of a kind as it may have; nothing was begun, and another process may have room for it."""

    retryable = True


class LeaseLost(CbkError):
    """Another worker holds this piece of work now; whoever gets this leaves everything as it is."""


class DownloadError(CbkError):
    """An object could not be fetched; `state` is what becomes of the version (a `model.VersionState`).

    `retry_after_seconds` is what the origin asked for, where it did.
    """

    state: ClassVar[str] = "failed"
    retryable = True

    def __init__(self, message: str, *, hint: str | None = None, retry_after_seconds: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_seconds = retry_after_seconds


class LinkForbidden(DownloadError):
    """The link points where we do not fetch from."""

    state = "declined"
    retryable = False


class TooLarge(DownloadError):
    """The object is larger than this kit accepts."""

    state = "declined"
    retryable = False


class LinkExpired(DownloadError):
    """The signed link has died; only the application can give another one."""

    state = "expired"
    retryable = False


class LinkDenied(DownloadError):
    """The origin refuses the link, for another reason than its age."""


class ObjectMissing(DownloadError):
    """The origin says that there is no such object."""

    state = "missing"
    retryable = False


class HashMismatch(DownloadError):
    """The object is complete, but is not the bytes that the row stands for; `actual` is its SHA-256 in hex, `actual_md5` its MD5,
    "" where that was not computed.
    """

    state = "mismatch"

    def __init__(self, message: str, *, expected: str, actual: str, actual_md5: str = "", hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.expected = expected
        self.actual = actual
        self.actual_md5 = actual_md5


class NotTheObject(DownloadError):
    """The origin answered with success, but with something that cannot be the object."""


class TransferBroken(DownloadError):
    """The transfer was cut, stalled, or had another length than announced."""


class OriginUnavailable(DownloadError):
    """The origin cannot be reached, or asks us to come back later."""
