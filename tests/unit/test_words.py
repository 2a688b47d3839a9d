"""One name is one thing, and none of the names that nobody could guess comes back."""

import ast
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "cbk"
MODULES = {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}
GONE = {
    "modules": "answers courier doors drawing gentle guard keeper kit look machine opening orders outcome patterns plain proof "
    "reread roll room scrub voice wanted wire work",
    "classes": "Asked Cut Dialler Keeper Kit LastWords Look Names Orders Part Past Room SharedLine Speech Turns Wire Wish _Beside "
    "_Trail _Walk",
    "functions": "_let_go _stay breathe forgive forget_future kit last_words pardon take_bytes take_in tend why_not_now",
}


def functions(tree):
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def classes(tree):
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}


def constants(tree):
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from ((target.id, ast.unparse(node.value)) for target in targets if isinstance(target, ast.Name))


def test_no_public_class_name_is_defined_twice():
    places = defaultdict(list)
    for path, tree in MODULES.items():
        for name in classes(tree):
            places[name].append(path)
    assert {name: where for name, where in places.items() if len(where) > 1 and not name.startswith("_")} == {}


def test_public_constant_of_one_name_has_one_value():
    values = defaultdict(dict)
    for path, tree in MODULES.items():
        for name, value in constants(tree):
            if name.isupper() and not name.startswith("_"):
                values[name].setdefault(value, path)
    assert {name: known for name, known in values.items() if len(known) > 1} == {}


@pytest.mark.parametrize("kind", GONE)
def test_name_that_nobody_could_guess_is_gone(kind):
    found = {
        "modules": {Path(path).stem for path in MODULES},
        "classes": set().union(*map(classes, MODULES.values())),
        "functions": set().union(*map(functions, MODULES.values())),
    }[kind]
    assert found & set(GONE[kind].split()) == set()


def test_every_edge_is_under_the_contract_that_keeps_them_apart():
    """But what they share, which knows none of them."""
    contracts = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (apart,) = (contract["modules"] for contract in contracts if contract["type"] == "independence")
    edges = {path.stem for path in entries_of(PACKAGE / "edges")} - {"databases"}
    assert edges == {module.removeprefix("cbk.edges.") for module in apart}


@pytest.mark.parametrize("room", ["jobs", "rules", "edges", "cli", "cluster", "edges/archive", "edges/catalog"])
def test_no_folder_has_more_than_a_dozen_entries(room):
    folders = [PACKAGE / room, *(path.parent for path in (PACKAGE / room).rglob("__init__.py"))]
    assert {folder.name for folder in folders if len(entries_of(folder)) > 12} - {"versions"} == set()


def entries_of(folder):
    """Its files and folders, but for those that hold nothing but what Python compiled, as a folder that was moved leaves behind."""
    return [
        entry
        for entry in folder.iterdir()
        if not entry.name.startswith("__") and (entry.is_file() or any(path.suffix == ".py" for path in entry.rglob("*")))
    ]
