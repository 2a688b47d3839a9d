"""What arguments a task takes, and what it declines, whoever sent it."""

import pytest

from cbk.errors import UsageError
from cbk.rules.backup.batches import LARGEST
from cbk.rules.cluster.messages import LONGEST_TEXT, read_id, read_ids, read_number, read_text

LONG = pytest.param("1" * (LONGEST_TEXT + 1), id="long")
LARGE = pytest.param(10**5000, id="large")


@pytest.mark.parametrize(("value", "row_id"), [(17, "17"), (-1, "-1"), ("17", "17"), ("b9f6-uuid", "b9f6-uuid"), ("", "")])
def test_id_is_a_number_or_a_text(value, row_id):
    assert read_id(value) == row_id


@pytest.mark.parametrize("value", [None, True, 1.5, [17], {"id": 17}, LONG, LARGE])
def test_nothing_else_is_an_id(value):
    with pytest.raises(UsageError) as told:
        read_id(value)
    assert len(told.value.message) < 100


@pytest.mark.parametrize("value", [None, "17", {"1": "2"}, [None], [[17]], list(range(LARGEST + 1))])
def test_batch_is_a_list_of_as_many_ids_as_a_message_holds(value):
    assert read_ids([17, "18"]) == ["17", "18"]
    with pytest.raises(UsageError):
        read_ids(value)


@pytest.mark.parametrize("value", [None, False, -1, 2**63, pytest.param(10**5000, id="large"), "17", 1.0])
def test_number_of_the_catalogs_is_a_whole_one_that_it_can_hold(value):
    assert read_number(2**63 - 1) == 2**63 - 1
    with pytest.raises(UsageError):
        read_number(value)


@pytest.mark.parametrize("value", [17, ["s3"], b"s3", LONG])
def test_name_is_a_text_of_a_length_that_keys_have(value):
    assert read_text("cars/id-1/") == "cars/id-1/"
    with pytest.raises(UsageError):
        read_text(value)
