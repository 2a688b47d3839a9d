"""400 days of one machine in a minute, under libfaketime: a dump is taken each day, as the messages of beat would have it.

    python -m tests.functional.dumps_of_a_year CLOCK_FILE FIRST_DAY DAYS

The settings come from the environment.
"""

import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cbk.edges import host
from cbk.jobs.admin.init import initialise
from cbk.jobs.context import open_context
from cbk.jobs.dump.take import take_dump
from cbk.jobs.dump.upkeep import tidy
from cbk.settings import load_settings

# When a message comes: at the slot (03:00), soon after it, and when a grace of an hour has passed.
MOMENTS = (timedelta(hours=3, minutes=1), timedelta(hours=3, minutes=20), timedelta(hours=5))


def main(clock_file, first_day, days):
    booted = datetime.fromisoformat(first_day).replace(tzinfo=UTC) - timedelta(days=1)
    # libfaketime does not turn /proc/uptime: the machine has been running for as long as its clock says.
    host.uptime = lambda: host.now() - booted
    with closing(open_context(load_settings())) as context:
        for day in range(int(days)):
            for moment in MOMENTS:
                set_clock(Path(clock_file), booted + timedelta(days=1 + day) + moment)
                if day == 0 and moment == MOMENTS[0]:
                    list(initialise(context))
                done = take_dump(context, "app", pause=never, if_due=True)
                tidy(context, "app", pause=never, after=done)


def set_clock(file, moment):
    fresh = file.with_suffix(".new")
    fresh.write_text(f"@{moment:%Y-%m-%d %H:%M:%S}\n")
    fresh.rename(file)


def never(_seconds):
    return False


if __name__ == "__main__":
    main(*sys.argv[1:])
