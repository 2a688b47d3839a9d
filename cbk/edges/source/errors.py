"""What the drivers raise, in our words: the one place where a database error becomes a `SourceError`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote, quote_plus

from sqlalchemy import URL
from sqlalchemy.exc import DBAPIError, ProgrammingError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from cbk.edges.source.engine import SETTING
from cbk.errors import SourceError, SourceSchemaError, SourceUnavailable

# SQLSTATE of PostgreSQL, error numbers of MySQL and MariaDB, words of SQLite.
_TIMED_OUT = frozenset({"57014", "3024", "1969", "interrupted"})
_DENIED_CODES = frozenset({"42501", "1142", "1143"})
_REFUSED = frozenset({"1044", "1045", "1049", "1698"})
_REFUSED_WORDS = ("authentication failed", "does not exist", "pg_hba.conf")  # libpq tells no SQLSTATE while it connects
_NO_SUCH_THING = frozenset({"42P01", "42703", "1146", "1054", "no such table", "no such column"})
_MISSING_PACKAGE = re.compile(r"'(\w+)' package is required")
_POOLER = "unsupported startup parameter"
_LONGEST_MESSAGE = 300


@contextmanager
def source_errors(url: URL, *, statement_seconds: float) -> Iterator[None]:
    """Turn what goes wrong inside into SourceUnavailable or SourceSchemaError.

    Their messages hold the host, if the driver says so, and never the URL, the password, the SQL or its parameters; the cause is
    left out for the same reason.
    """
    try:
        yield
    except PoolTimeoutError:
        raise SourceUnavailable("every connection to the application's database is busy") from None
    except DBAPIError as error:
        raise _translated(error, url, statement_seconds) from None
    except RuntimeError as error:  # PyMySQL's, which is none of the errors that drivers agree on
        package = _MISSING_PACKAGE.search(str(error))
        if package is None:
            raise
        told = f"the login of this server needs the package {package[1]}, which is not installed"
        raise SourceUnavailable(told, hint="pip install 'cloud-backup-kit[mysql]' brings it") from None
    except SQLAlchemyError as error:
        raise SourceUnavailable(f"the application's database cannot be read: {type(error).__name__}") from None


def _translated(error: DBAPIError, url: URL, statement_seconds: float) -> SourceError:
    codes = _codes(error)
    told = _first_line(error, url)
    if codes & _TIMED_OUT:
        return SourceUnavailable(f"the application's database did not answer within {statement_seconds:g} s")
    if codes & _DENIED_CODES:
        hint = f"`cbk schema {url.get_backend_name()}` prints the grants that are needed"
        return SourceSchemaError(f"the application's database denies reading: {told}", hint=hint)
    if codes & _NO_SUCH_THING or isinstance(error, ProgrammingError):
        hint = f"`cbk schema {url.get_backend_name()}` prints the tables and columns that are expected"
        return SourceSchemaError(f"the application's database has other tables than expected: {told}", hint=hint)
    return SourceUnavailable(f"the application's database cannot be read: {told}", hint=_hint(codes, told, url))


def _codes(error: DBAPIError) -> frozenset[str]:
    original = error.orig
    state = getattr(original, "sqlstate", None)
    first = original.args[0] if original is not None and original.args else ""
    words = str(first) if isinstance(first, int) else str(first).partition(":")[0]
    return frozenset({words, str(state)})


def _hint(codes: frozenset[str], told: str, url: URL) -> str | None:
    if _POOLER in told:
        return f"{SETTING} leads to a connection pooler: connect to the database itself, or let the pooler pass `options` on"
    if codes & _REFUSED or any(words in told for words in _REFUSED_WORDS):
        return f"check the user, the password and the database in {SETTING}"
    if url.get_backend_name() == "sqlite" and "unable to open" in told:
        return f"check the path in {SETTING}, and that this user may read the file (in WAL mode: write its folder)"
    return None


def _first_line(error: DBAPIError, url: URL) -> str:
    """The first line of what the driver says, without the password in any spelling."""
    arguments = error.orig.args if error.orig is not None else ()
    said = str(arguments[-1]) if arguments else type(error.orig).__name__
    line = next((line.strip() for line in said.splitlines() if line.strip()), type(error.orig).__name__).rstrip(".")
    password = str(url.password or "")
    for spelling in {password, quote(password, safe=""), quote_plus(password)} - {""}:
        line = line.replace(spelling, "***")
    return line[:_LONGEST_MESSAGE]
