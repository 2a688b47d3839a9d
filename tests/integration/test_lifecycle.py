"""Every arrow of the graph of a version's states moves it in the catalog, and no other one does."""

import ast
import itertools
from pathlib import Path

import pytest
import sqlalchemy as sa

from cbk.edges.catalog.database.schema import versions
from cbk.edges.catalog.database.transitions import move
from cbk.model import VersionState
from cbk.rules.lifecycle import LIFECYCLE, StateEvent, mermaid

ROOT = Path(__file__).parents[2]
STATES = list(VersionState)


@pytest.fixture
def one_version(site):
    """A function that tries to move the only version, which is in a state, and tells how many moved and where it is then."""
    site.upload("photo.jpg", b"x")
    site.poll()
    database = site.context.catalog.database

    def attempt(state, event, to):
        with database.writing() as connection:
            connection.execute(sa.update(versions).values(state=state.value))
            moved = move(connection, event, versions.c.id > 0, to=to)
            return moved, VersionState(connection.scalar(sa.select(versions.c.state)))

    return attempt


@pytest.mark.parametrize("event", StateEvent)
def test_event_moves_a_version_from_the_states_that_the_graph_names_and_from_no_other(one_version, event):
    change = LIFECYCLE[event]
    tried = {(state, target): one_version(state, event, target) for state, target in itertools.product(STATES, change.targets)}
    allowed = {pair for pair, (moved, _) in tried.items() if moved}
    assert allowed == set(itertools.product(change.sources, change.targets))
    assert all(after is (target if (state, target) in allowed else state) for (state, target), (_, after) in tried.items())


@pytest.mark.parametrize("event", StateEvent)
def test_event_moves_no_version_to_a_state_that_the_graph_does_not_name(one_version, event):
    for target in set(STATES) - LIFECYCLE[event].targets:
        with pytest.raises(AssertionError):
            one_version(next(iter(LIFECYCLE[event].sources)), event, target)


def test_every_state_can_be_reached_and_left():
    reached = {VersionState.PENDING, VersionState.STORED}
    while more := {
        target for change in LIFECYCLE.values() if change.sources & reached for target in change.targets if target not in reached
    }:
        reached |= more
    assert reached == set(STATES)
    assert all(any(state in change.sources and change.targets - {state} for change in LIFECYCLE.values()) for state in STATES)


def test_state_of_a_version_is_written_in_one_place():
    found = {
        path.name
        for path in (ROOT / "cbk").rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "values"
        if "update(versions)" in ast.unparse(call) and any(keyword.arg == "state" for keyword in call.keywords)
    }
    assert found == {"transitions.py"}


def test_architecture_draws_the_graph_that_is_in_force():
    assert mermaid() in (ROOT / "docs" / "architecture.md").read_text()
