"""What scripts/test-wheels runs: has all that constraints/ names a wheel, with a pinned hash, for each Python and processor?

Asks the package index by pip, which looks at what it would install on such a machine, and installs nothing.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
MACHINES = ("x86_64", "aarch64")
SETS = ("runtime", "dev")
# Debian 12's C library, the oldest that we name.
GLIBC = 36
_BLOCK = re.compile(r"^(?=[A-Za-z0-9])(?:[^\n\\]*\\\n)*[^\n]*", re.MULTILINE)


class IndexFailed(Exception):
    """Something else than a missing wheel: pip's own words."""


def main(arguments: list[str]) -> int:
    """`arguments` are sets of constraints/, by default SETS. The exit code: 0 nothing is missing, 1 something is, 2 usage."""
    sets = arguments or list(SETS)
    if unknown := [name for name in sets if not (ROOT / f"constraints/{name}.txt").is_file()]:
        print(f"there is no constraints/{unknown[0]}.txt", file=sys.stderr)
        return 2
    is_whole = True
    for name in sets:
        text = (ROOT / f"constraints/{name}.txt").read_text()
        for python in PYTHONS:
            for machine in MACHINES:
                wanted = list(pins(text, python, machine))
                lacking = missing(wanted, python, machine)
                is_whole = is_whole and not lacking
                found = f"MISSING: {', '.join(lacking)}" if lacking else "all there"
                print(f"{name:8} Python {python} {machine:8} {len(wanted):4} pinned, {found}", flush=True)
    print("all is well" if is_whole else "wheels are missing: pin another version (scripts/lock), or stop naming that platform")
    return 0 if is_whole else 1


def pins(text: str, python: str, machine: str) -> Iterator[str]:
    """The lines of a constraints file that count on such a machine, without their markers."""
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.9",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "platform_machine": machine,
        "sys_platform": "linux",
        "platform_system": "Linux",
        "os_name": "posix",
        "extra": "",
    }
    for block in _BLOCK.findall(text):
        named, _, hashes = block.partition("\\\n")
        marker = Requirement(named.strip()).marker
        if marker is None or marker.evaluate(environment):
            yield f"{named.partition(';')[0].strip()} \\\n{hashes}"


def missing(wanted: Iterable[str], python: str, machine: str) -> list[str]:
    """Which of these pinned lines have no wheel for that machine, as "name==version". Raises IndexFailed."""
    left, lacking = list(wanted), []
    while left:
        said = ask_pip(left, python, machine)
        if said is None:
            break
        named = re.search(r"No matching distribution found for ([^\s;]+)", said)
        if named is None or not (others := [pin for pin in left if not pin.startswith(f"{named[1]} ")]) or len(others) == len(left):
            if named is not None and len(left) == 1:
                return [*lacking, named[1]]
            raise IndexFailed(said)
        lacking.append(named[1])
        left = others
    return lacking


def ask_pip(wanted: list[str], python: str, machine: str) -> str | None:
    """What pip says against installing these there; None where it has nothing to say."""
    platforms = ["manylinux2014", *(f"manylinux_2_{minor}" for minor in range(17, GLIBC + 1))]
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "pinned.txt"
        constraints.write_text("\n".join(wanted) + "\n")
        done = subprocess.run(
            [
                *(
                    sys.executable,
                    "-m",
                    "pip",
                    "--disable-pip-version-check",
                    "--quiet",
                    "install",
                    "--dry-run",
                    "--ignore-installed",
                ),
                *("--no-deps", "--only-binary", ":all:", "--require-hashes", "--implementation", "cp", "--python-version", python),
                *(word for platform in platforms for word in ("--platform", f"{platform}_{machine}")),
                *("--target", folder, "--requirement", str(constraints)),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
    return None if done.returncode == 0 else done.stderr


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
