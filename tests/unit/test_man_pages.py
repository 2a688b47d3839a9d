"""Man pages and completion: what a terminal knows of the commands without running one."""

import shutil
import subprocess
import sys

import pytest

import man_pages
from cbk.cli.main import cli


@pytest.fixture(scope="module")
def pages():
    return man_pages.pages()


def test_every_command_has_a_page(pages):
    assert sorted(pages) == sorted(["cbk.1", *(f"cbk-{name}.1" for name in cli.commands)])


def test_page_has_every_option_and_what_it_does(pages):
    for name, command in cli.commands.items():
        page = pages[f"cbk-{name}.1"].replace("\\-", "-")
        options = [parameter for parameter in command.params if parameter.param_type_name == "option"]
        assert [each.name for each in options if each.opts[0] not in page or " ".join(each.help.split()) not in page] == []


def test_page_of_the_kit_names_every_command_and_the_exit_codes(pages):
    page = pages["cbk.1"].replace("\\-", "-")
    assert [name for name in cli.commands if f"\\fBcbk-{name}\\fR(1)" not in page] == []
    assert "2 wrong usage or settings" in page


def test_page_keeps_the_lines_of_an_example(pages):
    assert (
        '  cbk restore --to /mnt/new --prefix cars/ --at "2026-11-20 14:00"'
        in pages["cbk-restore.1"].replace("\\-", "-").splitlines()
    )


@pytest.mark.parametrize("text", [".so /etc/passwd", "'so /etc/passwd", "a \\fB backslash"])
def test_no_text_is_taken_for_a_request(text):
    line = man_pages._line(text)
    assert not line.startswith((".", "'"))
    assert "\\f" not in line


@pytest.mark.skipif(shutil.which("groff") is None, reason="this machine has no groff to read the pages with")
def test_groff_has_nothing_to_say(pages, tmp_path):
    for name, text in pages.items():
        (tmp_path / name).write_text(text)
    done = subprocess.run(["groff", "-man", "-ww", "-z", *sorted(pages)], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_pages_are_written_into_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["man_pages.py", str(tmp_path / "man1")])
    assert man_pages.main() == 0
    assert (tmp_path / "man1/cbk-ls.1").read_text().startswith(".TH CBK-LS 1 ")


# Completion


def answer(shell, words, position):
    """What the kit gives a shell that asks it, or the shell's own script where `words` is None."""
    asked = {"_CBK_COMPLETE": f"{shell}_source"}
    if words is not None:
        asked = {"_CBK_COMPLETE": f"{shell}_complete", "COMP_WORDS": words, "COMP_CWORD": str(position)}
    command = [sys.executable, "-c", "from cbk.cli.main import main; main()"]
    return subprocess.run(command, env={"PATH": "/usr/bin:/bin"} | asked, capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_script_for_a_shell_asks_the_kit(shell):
    assert f"_CBK_COMPLETE={shell}_complete" in answer(shell, None, 0)


def test_completion_names_every_command_without_any_setting():
    assert answer("bash", "cbk ", 1).splitlines() == [f"plain,{name}" for name in sorted(cli.commands)]


def test_completion_names_the_options_of_a_command():
    assert "plain,--approve" in answer("bash", "cbk prune --", 2).splitlines()


@pytest.mark.skipif(shutil.which("bash") is None, reason="this machine has no bash to complete in")
def test_bash_completes_a_command(tmp_path):
    (tmp_path / "cbk").write_text(f'#!/bin/sh\nexec {sys.executable} -c "from cbk.cli.main import main; main()" "$@"\n')
    (tmp_path / "cbk").chmod(0o755)
    script = (
        'eval "$(_CBK_COMPLETE=bash_source cbk)"; COMP_WORDS=(cbk und); COMP_CWORD=1; _cbk_completion cbk; echo "${COMPREPLY[@]}"'
    )
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "undelete\n"
