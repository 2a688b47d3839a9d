"""What scripts/man-pages runs: man pages in man(7), written from the help of the commands, so that both say the same."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib.metadata import version
from inspect import cleandoc
from pathlib import Path

import click

from cbk.cli.main import cli

# What click's help takes for a paragraph that keeps its lines.
_AS_IT_IS = "\b"


def main() -> int:
    """Write the pages into the folder that is named."""
    if len(sys.argv) != 2:
        sys.stderr.write("usage: scripts/man-pages FOLDER\n")
        return 2
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text, encoding="utf-8")
    return 0


def pages() -> dict[str, str]:
    """All pages by the names of their files: `cbk.1`, `cbk-ls.1` and so on."""
    above = click.Context(cli, info_name="cbk", help_option_names=cli.context_settings["help_option_names"])
    made = {"cbk.1": _page(above, names=sorted(cli.commands))}
    for name, command in cli.commands.items():
        made[f"cbk-{name}.1"] = _page(click.Context(command, info_name=name, parent=above), names=["cbk"])
    return made


def _page(context: click.Context, *, names: list[str]) -> str:
    """One page. `names` are what to see also."""
    command, title = context.command, context.command_path.replace(" ", "-")
    summary = " ".join(_paragraphs(command)[0].split())
    lines = [
        f'.TH {title.upper()} 1 "" "cbk {version("cloud-backup-kit")}" "Cloud Backup Kit"',
        ".SH NAME",
        f"{_escaped(title)} \\- {_escaped(_first_sentence(summary))}",
        ".SH SYNOPSIS",
        f".B {_escaped(context.command_path)}",
        *map(_line, command.collect_usage_pieces(context)),
        ".SH DESCRIPTION",
        *_body(_paragraphs(command)),
        ".SH OPTIONS",
        *_options(context),
    ]
    if isinstance(command, click.Group):
        lines += [".SH COMMANDS", *_commands(command)]
        lines += [".SH EXIT STATUS", *_body([_exit_codes()])]
        lines += [".SH FILES", ".TP", ".I /etc/cbk/cbk.toml", "Settings, where neither \\-\\-config nor CBK_CONFIG names a file."]
    also = ", ".join(f"\\fB{_escaped(name if name == 'cbk' else f'cbk-{name}')}\\fR(1)" for name in names)
    return "\n".join([*lines, ".SH SEE ALSO", also, ""])


def _paragraphs(command: click.Command) -> list[str]:
    return re.split(r"\n\s*\n", cleandoc(command.help or "").strip())


def _first_sentence(text: str) -> str:
    """Without its full stop, as the other pages of a system have it."""
    sentence = re.split(r"(?<=[.;:]) ", text, maxsplit=1)[0].rstrip(".;:")
    return sentence[0].lower() + sentence[1:]


def _body(paragraphs: list[str]) -> Iterator[str]:
    for paragraph in paragraphs:
        yield ".PP"
        if paragraph.startswith(_AS_IT_IS):
            yield ".nf"
            yield from map(_line, paragraph.removeprefix(_AS_IT_IS).strip("\n").splitlines())
            yield ".fi"
        else:
            yield from map(_line, paragraph.splitlines())


def _options(context: click.Context) -> Iterator[str]:
    for parameter in context.command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and not isinstance(parameter, click.Argument):
            yield ".TP"
            yield f"\\fB{_escaped(record[0])}\\fR"
            yield _line(" ".join(record[1].split()))


def _commands(group: click.Group) -> Iterator[str]:
    for name, command in sorted(group.commands.items()):
        yield ".TP"
        yield f"\\fBcbk\\-{_escaped(name)}\\fR(1)"
        yield _line(" ".join(_paragraphs(command)[0].split()))


def _exit_codes() -> str:
    codes = " ".join((cli.epilog or "").replace(_AS_IT_IS, "").split())
    return codes.removeprefix("Exit codes: ")


def _line(text: str) -> str:
    """A line of text, which no first character makes a request."""
    escaped = _escaped(text)
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


def _escaped(text: str) -> str:
    """With its backslashes and hyphens as they are: a dash in an option is one that can be pasted."""
    return text.replace("\\", "\\e").replace("-", "\\-")


if __name__ == "__main__":
    sys.exit(main())
