"""Every error survives the way from a prefork child to its parent, and says what a person needs."""

import inspect
import pickle

import pytest

from cbk import errors
from cbk.model import VersionState

EXTRA = {"problems": ("CBK_LEASE: wrong", "CBK_BUCKETS: wrong"), "expected": "aa", "actual": "bb", "retry_after_seconds": 7.5}


def tree(cls):
    """The class and everything below it, so that a new error cannot be forgotten."""
    return [cls, *(found for child in cls.__subclasses__() for found in tree(child))]


def made(cls):
    """An instance with a value for each parameter that its constructor has."""
    parameters = inspect.signature(cls).parameters
    values = {"message": "what happened", "hint": "what to do"} | EXTRA
    return cls(**{name: value for name, value in values.items() if name in parameters})


ALL = tree(errors.CbkError)
DOWNLOADS = tree(errors.DownloadError)


@pytest.mark.parametrize("cls", ALL)
def test_error_comes_out_of_a_pickle_as_it_went_in(cls):
    error = made(cls)
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is cls
    assert (str(back), back.args, vars(back)) == (str(error), error.args, vars(error))
    assert back.hint == "what to do"


@pytest.mark.parametrize("cls", ALL)
def test_error_is_shown_as_its_message(cls):
    error = made(cls)
    assert str(error) == error.message != ""


@pytest.mark.parametrize("cls", ALL)
def test_every_class_stands_in_the_tree_that_the_module_draws(cls):
    assert f" {cls.__name__} " in errors.__doc__.replace("\n", " ")


@pytest.mark.parametrize("cls", [cls for cls in ALL if not cls.__subclasses__()])
def test_drawn_tree_tells_what_is_retryable(cls):
    [line] = [line for line in errors.__doc__.splitlines() if f" {cls.__name__} " in line]
    assert cls.retryable == line.endswith("retryable")


@pytest.mark.parametrize("cls", DOWNLOADS)
def test_state_of_a_failed_download_is_one_that_a_version_can_have(cls):
    assert VersionState(cls.state) not in {VersionState.STORED, VersionState.PENDING, VersionState.PRUNED}


def test_settings_error_names_every_problem():
    assert str(errors.SettingsError(["CBK_A: one", "CBK_B: two"])) == "settings are not valid:\n  CBK_A: one\n  CBK_B: two"


def test_usage_and_settings_end_a_command_with_2_and_everything_else_with_1():
    assert {cls for cls in ALL if cls.exit_code == 2} == {errors.UsageError, errors.SettingsError}
    assert {cls.exit_code for cls in ALL} == {1, 2}
