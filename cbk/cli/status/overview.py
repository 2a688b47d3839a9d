"""`cbk --help`: all commands, in groups by what somebody is about to do, each with a line that is whole on any terminal."""

from __future__ import annotations

import click

GROUPS = {
    "Set up": {
        "setup": "ask for the settings, and try each answer",
        "init": "prepare the backup disk and the catalog",
        "doctor": "look at every part, and say what is wrong",
        "schema": "print the application's tables and its user",
        "notify": "send everybody a test message",
        "upgrade": "bring the catalog to this release",
    },
    "Look": {
        "status": "what is protected, and what needs a person",
        "ls": "every version, its state and the reason for it",
        "history": "what happened to one file",
        "page": "serve all this to browsers and Prometheus",
    },
    "Get back": {
        "restore": "bring files back, each one compared",
        "cat": "write one file to standard output",
        "rebuild": "make a lost catalog again from the disk",
    },
    "Keep and let go": {
        "hold": "keep a file, whatever the application deletes",
        "release": "end a hold",
        "undelete": "take back the delete of a file",
        "prune": "see, approve or reject what is to go",
        "quarantine": "read once more what was put aside as bad",
    },
    "Run": {
        "verify": "read copies from the disk again",
        "drill": "restore some files as a test",
        "resync": "read a file's rows again, and fetch it",
        "dump": "dumps of databases: take, list, restore",
        "mirror": "bring what is new to a further place",
        "pause": "fetch nothing new for a while",
        "resume": "end a pause",
        "bandwidth": "show or change the limit on downloads",
    },
}


class GroupedCommands(click.Group):
    """A group of commands whose help lists them by `GROUPS`."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the lists of commands; called by click."""
        widest = max(map(len, self.list_commands(ctx)))
        for title, lines in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(widest), line) for name, line in lines.items()])
