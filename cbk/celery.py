"""Where `celery -A cbk` looks for the app."""

from __future__ import annotations

import sys

from cbk.errors import CbkError

try:
    from cbk.cluster.app import app
except CbkError as error:
    # Celery shows an exception as a traceback; its command is to end as those of `cbk` do.
    sys.stderr.write(f"cbk: {error.message}\n" + (f"HINT: {error.hint}\n" if error.hint else ""))
    raise SystemExit(error.exit_code) from None

__all__ = ["app"]
