"""Every command that the kit's own words name exists, and takes what they give it."""

import ast
import re
import shlex
from pathlib import Path

import click
import pytest

import cbk
from cbk.cli.main import cli

KIT = Path(cbk.__file__).parent
ROOT = KIT.parent
# What is filled in where the text is made, and anything else is a name.
SAMPLES = {"url.get_backend_name()": "postgresql", "connection.dialect.name": "postgresql"}
IN_WORDS = re.compile(r"`((?:sudo )?cbk [^`]+)`")


def texts_of(module):
    """The texts in a module's source; what an f-string fills in has a sample's value."""
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else sample(ast.unparse(part.value)) for part in node.values)


def sample(expression):
    return SAMPLES.get(expression, "3" if expression.endswith("id") else "usb")


def commands_named():
    """Each command that is named in the kit, with the file that names it."""
    found = {}
    for module in sorted(KIT.rglob("*.py")):
        for text in texts_of(module):
            for command in IN_WORDS.findall(text):
                found.setdefault(command, str(module.relative_to(ROOT)))
    for page in sorted((KIT / "page").rglob("*.html")):
        for command in re.findall(r"<code>(cbk [^<]+)</code>", page.read_text()):
            found.setdefault(re.sub(r"\{\{ *(.*?) *\}\}", lambda filled: sample(filled[1]), command), str(page.relative_to(ROOT)))
    return sorted(found.items())


def understand(command):
    """Have click read a command as it would when somebody types it; raises a click.UsageError if it does not.

    What it lacks is not asked for: words may name a command alone.
    """
    arguments = shlex.split(command.removeprefix("sudo "))[1:]
    ours, context = cli, click.Context(cli, info_name="cbk")
    while True:
        values, rest, _ = ours.make_parser(context).parse_args(list(arguments)) if arguments != ["--help"] else ({}, [], [])
        for parameter in ours.params:
            if isinstance(values.get(parameter.name), str):  # and nothing of click's own, for what is not given
                parameter.type_cast_value(context, values[parameter.name])
        if not isinstance(ours, click.Group) or not rest:
            return
        name, ours, arguments = ours.resolve_command(context, rest)
        context = click.Context(ours, info_name=name, parent=context)


def test_words_name_commands():
    assert len(commands_named()) > 40


@pytest.mark.parametrize(("command", "file"), [pytest.param(*each, id=each[0]) for each in commands_named()])
def test_command_that_words_name_exists_and_takes_what_they_give_it(command, file):
    try:
        understand(command)
    except click.BadOptionUsage as error:  # the option is there; its value is the reader's
        if "requires an argument" not in error.message:
            raise
    except click.UsageError as error:
        pytest.fail(f"{file} names `{command}`: {error.format_message()}")


@pytest.mark.parametrize(
    "command", ["cbk nonsense", "cbk status --nonsense", "cbk pause soon-ish --nonsense", "cbk prune --approve x"]
)
def test_command_that_does_not_exist_is_found(command):
    with pytest.raises(click.UsageError):
        understand(command)


def test_script_that_words_name_exists():
    named = {script for module in KIT.rglob("*.py") for script in re.findall(r"`(scripts/[\w.-]+)", module.read_text())}
    assert [script for script in named if not (ROOT / script).exists()] == []
