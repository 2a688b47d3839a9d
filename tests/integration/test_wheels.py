"""scripts/wheels.py on a small index of the test's own: a wheel that is missing for one machine is named, and nothing else."""

import hashlib
import zipfile

import pytest

import wheels

PINNED = r"""
everywhere==1.0 \
    --hash=sha256:{everywhere}
compiled==2.0 \
    --hash=sha256:{compiled} \
    --hash=sha256:0000000000000000000000000000000000000000000000000000000000000000
old==3.0 ; python_full_version < '3.12' \
    --hash=sha256:{old}
elsewhere==4.0 ; sys_platform == 'win32' \
    --hash=sha256:0000000000000000000000000000000000000000000000000000000000000000
"""


def make_wheel(folder, name, version, tag):
    path = folder / f"{name}-{version}-{tag}.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}.py", "")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
        wheel.writestr(f"{info}/RECORD", "")
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def text(tmp_path, monkeypatch):
    """A constraints file, and an index in which `compiled` has a wheel for one machine alone."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return PINNED.format(
        everywhere=make_wheel(tmp_path, "everywhere", "1.0", "py3-none-any"),
        compiled=make_wheel(tmp_path, "compiled", "2.0", "cp311-cp311-manylinux_2_28_x86_64"),
        old=make_wheel(tmp_path, "old", "3.0", "py3-none-any"),
    )


def names(found):
    return [pin.partition("==")[0] for pin in found]


def test_what_is_pinned_for_another_machine_does_not_count(text):
    assert names(wheels.pins(text, "3.11", "x86_64")) == ["everywhere", "compiled", "old"]
    assert names(wheels.pins(text, "3.14", "x86_64")) == ["everywhere", "compiled"]


def test_nothing_is_missing_where_every_wheel_is_there(text):
    assert wheels.missing(wheels.pins(text, "3.11", "x86_64"), "3.11", "x86_64") == []


@pytest.mark.parametrize(("python", "machine"), [("3.11", "aarch64"), ("3.14", "x86_64")])
def test_wheel_that_one_python_or_machine_lacks_is_named(text, python, machine):
    assert wheels.missing(wheels.pins(text, python, machine), python, machine) == ["compiled==2.0"]


def test_every_wheel_that_is_missing_is_named(text, tmp_path):
    (tmp_path / "everywhere-1.0-py3-none-any.whl").unlink()
    found = wheels.missing(wheels.pins(text, "3.11", "aarch64"), "3.11", "aarch64")
    assert sorted(found) == ["compiled==2.0", "everywhere==1.0"]


def test_wheel_that_is_not_the_pinned_one_is_no_missing_one(text, tmp_path):
    (tmp_path / "everywhere-1.0-py3-none-any.whl").write_bytes((tmp_path / "old-3.0-py3-none-any.whl").read_bytes())
    with pytest.raises(wheels.IndexFailed, match="HASHES"):
        wheels.missing(list(wheels.pins(text, "3.14", "x86_64"))[:1], "3.14", "x86_64")
