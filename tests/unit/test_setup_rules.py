"""Answers, and the files that they become."""

import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbk.errors import UsageError
from cbk.rules.admin.setup import QUESTIONS, for_another_machine, parse_answer, split_answers, to_toml
from cbk.settings import Settings, parse_settings

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
NAMES = TEXTS.filter(bool)
VALUES = st.dictionaries(
    NAMES, TEXTS | st.integers(-(2**63), 2**63 - 1) | st.booleans() | st.lists(TEXTS) | st.dictionaries(NAMES, TEXTS)
)


@given(values=VALUES, comment=TEXTS)
def test_toml_is_read_as_what_was_written(values, comment):
    comments = dict.fromkeys(values, comment.replace("\r", "").translate(dict.fromkeys(range(32), " ")).replace("\x7f", ""))
    assert tomllib.loads(to_toml(values, head="Two\nlines.", comments=comments)) == values


def test_toml_has_the_meaning_above_each_value_and_tables_last():
    text = to_toml({"buckets": {"s3": "car-erp"}, "lease": "2m"}, head="Head.", comments={"lease": "How long."})
    assert text == '# Head.\n\n# How long.\nlease = "2m"\n\n[buckets]\ns3 = "car-erp"\n'


def test_questions_are_about_settings_that_there_are():
    assert {question.setting for question in QUESTIONS} <= set(Settings.model_fields)


@pytest.mark.parametrize(
    ("setting", "typed", "value"),
    [
        ("backup_root", " /backups ", "/backups"),
        ("buckets", "s3=car-erp", {"s3": "car-erp"}),
        ("buckets", " s3 = car-erp , r2=media", {"s3": "car-erp", "r2": "media"}),
        ("buckets", '{"s3": "car-erp"}', '{"s3": "car-erp"}'),
    ],
)
def test_parse_answer(setting, typed, value):
    assert parse_answer(setting, typed) == value


@pytest.mark.parametrize("typed", ["car-erp", "s3=", "=car-erp", "s3=a,,r2=b"])
def test_parse_answer_names_the_part_that_makes_no_sense(typed):
    with pytest.raises(UsageError, match="is no storage with its folder"):
        parse_answer("buckets", typed)


def test_split_answers_takes_the_warnings_that_are_accepted_out_of_the_settings():
    assert split_answers({"lease": "2m", "accept": ["system-disk"]}) == ({"lease": "2m"}, frozenset({"system-disk"}))
    assert split_answers({"lease": "2m"}) == ({"lease": "2m"}, frozenset())


@pytest.mark.parametrize("accepted", ["system-disk", [1], True])
def test_split_answers_refuses_what_is_no_list_of_names(accepted):
    with pytest.raises(UsageError, match="`accept` is no list of names"):
        split_answers({"accept": accepted})


def test_another_machine_gets_all_but_whom_flower_and_the_page_let_in():
    values = {"lease": "2m", "flower_auth": "a:b", "flower_port": 1, "page_auth": "c:d", "page_port": 2, "metrics_token": "e"}
    assert for_another_machine(values, broker="redis://:p@pi/0", catalog_is_shared=True) == {"lease": "2m"}


@pytest.mark.parametrize(
    ("broker", "is_shared", "message"),
    [
        ("redis://pi/0", False, "the catalog is SQLite"),
        ("redis://127.0.0.1:6379/0", True, "no other machine reaches the Redis"),
        ("redis://:p@localhost/0", True, "no other machine reaches the Redis"),
        ("rediss://[::1]/0", True, "no other machine reaches the Redis"),
        ("redis+socket:///run/redis.sock", True, "no other machine reaches the Redis"),
    ],
)
def test_another_machine_cannot_join_what_it_cannot_reach(broker, is_shared, message):
    with pytest.raises(UsageError, match=message):
        for_another_machine({}, broker=broker, catalog_is_shared=is_shared)


def test_documented_answers_are_settings_and_a_list_of_warnings():
    page = (Path(__file__).parents[2] / "docs/commands.md").read_text()
    (example,) = re.findall(r"^```toml answers\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    values, accepted = split_answers(tomllib.loads(example))
    assert parse_settings(values).bucket("s3") == "car-erp"
    assert accepted <= set(re.findall(r"^\| `([a-z-]+)` \| the ", page, flags=re.MULTILINE))
