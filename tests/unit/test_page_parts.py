"""What the page is made of: names in headers and addresses, lines, answers that are kept for a while, who answered the roll."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import unquote

import pytest

from cbk import page
from cbk.errors import BrokerUnavailable, CatalogUnavailable, UsageError
from cbk.page.auth import Credentials
from cbk.page.names import content_disposition, from_query, to_query
from cbk.page.show import marked
from cbk.page.snapshot import FRESH_SECONDS, REST, Snapshot
from cbk.page.sparkline import HEIGHT, POINTS, WIDTH, draw
from cbk.page.workers import COUNTS_SECONDS, WorkerCounts

NOW = datetime(2026, 6, 1, tzinfo=UTC)


# ---- names -----------------------------------------------------------------------------------------------------------------


def saved_as(key):
    header = content_disposition(key)
    plain, encoded = re.fullmatch(r"attachment; filename=\"([^\"\\]*)\"; filename\*=UTF-8''(\S*)", header).groups()
    assert header.isascii()
    assert header.isprintable()
    return plain, unquote(encoded)


@pytest.mark.parametrize(
    ("key", "plain", "name"),
    [
        ("cars/id-1/thumbnail.png", "thumbnail.png", "thumbnail.png"),
        ("ünï 日本.txt", "_n_ __.txt", "ünï 日本.txt"),
        ('a/say "hi"; x=1.txt', "say _hi_; x=1.txt", "say _hi_; x=1.txt"),
        ("a/b\\..\\c", "b_.._c", "b_.._c"),
        ("line\r\nSet-Cookie: x", "line__Set-Cookie_ x", "line__Set-Cookie_ x"),
        ("\u202egnp.exe", "_gnp.exe", "_gnp.exe"),
        ("100%41.txt", "100_41.txt", "100%41.txt"),
        ("\ud800.txt", "_.txt", "_.txt"),
        ("a/", "file", "file"),
        ("a/..", "file", "file"),
        ("a/ . ", "file", "file"),
    ],
)
def test_file_is_saved_under_its_own_name_or_what_is_harmless_of_it(key, plain, name):
    assert saved_as(key) == (plain, name)


def test_long_name_keeps_its_extension():
    _, name = saved_as("é" * 4000 + ".jpeg")
    assert (len(name), name[-6:]) == (150, "é.jpeg")
    assert len(saved_as("a." + "b" * 4000)[1]) == 150


@pytest.mark.parametrize("text", ["", "a b/ü&=?#%", "\0\x1b\n", "\ud800\udfff", "\uf8ff0000", "+", "日本"])
def test_text_comes_back_from_an_address_as_it_went_in(text):
    query = to_query(bucket=text, folder=text + "/", key=None)
    assert query.isascii()
    assert from_query(query) == {"bucket": text, "folder": text + "/"}


@pytest.mark.parametrize("query", ["a=%ff", "&".join(["a=1"] * 100)])
def test_address_that_cannot_be_read_is_wrong_usage(query):
    with pytest.raises(UsageError):
        from_query(query)


def test_credentials_do_not_show():
    assert "secret" not in repr(Credentials("admin:secret", "secret-token-of-16"))


# ---- lines -----------------------------------------------------------------------------------------------------------------


def points(*values, **options):
    line = draw([(NOW + timedelta(hours=at), value) for at, value in values], **options)
    return line and [tuple(map(float, point.split(","))) for point in line.points.split()]


def test_line_goes_from_edge_to_edge():
    assert points((0, 5), (10, 15)) == [(0.0, HEIGHT - 1), (WIDTH, 1.0)]


def test_line_may_begin_at_zero():
    [(_, first), (_, last)] = points((0, 50), (1, 100), from_zero=True)
    assert (last, first) == (1.0, pytest.approx((HEIGHT - 1 + 1) / 2))


def test_line_of_one_height_is_flat():
    assert {y for _, y in points((0, 7), (1, 7), (2, 7))} == {HEIGHT - 1}


@pytest.mark.parametrize("values", [[], [(0, 1)], [(0, 1), (0, 2)]])
def test_line_needs_two_instants(values):
    assert points(*values) is None


def test_line_has_no_more_points_than_can_be_told_apart_and_keeps_the_highest():
    many = [(hour / 100, 1.0) for hour in range(5000)]
    many[2345] = (23.45, 9.0)
    drawn = points(*many)
    assert len(drawn) == POINTS
    assert min(y for _, y in drawn) == 1.0


# ---- answers that are kept -------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_answer_is_kept_while_it_is_fresh():
    clock, answers = Clock(), iter("abc")
    snapshot = Snapshot(lambda: next(answers), clock=clock)
    assert (snapshot.get(), snapshot.get()) == ("a", "a")
    clock.now += FRESH_SECONDS
    assert snapshot.get() == "b"


def test_answer_that_took_long_is_kept_longer():
    clock, answers = Clock(), iter("abc")

    def take():
        clock.now += 10
        return next(answers)

    snapshot = Snapshot(take, clock=clock)
    assert snapshot.get() == "a"
    clock.now += 10 * REST - 1
    assert snapshot.get() == "a"
    clock.now += 1
    assert snapshot.get() == "b"


def test_old_answer_does_not_stand_in_for_one_that_cannot_be_had():
    clock, answers = Clock(), iter(["a"])

    def take():
        for answer in answers:
            return answer
        raise CatalogUnavailable("away")

    snapshot = Snapshot(take, clock=clock)
    assert snapshot.get() == "a"
    clock.now += FRESH_SECONDS
    for _ in range(2):
        with pytest.raises(CatalogUnavailable, match="away"):
            snapshot.get()


# ---- the roll --------------------------------------------------------------------------------------------------------------


def test_answer_of_the_workers_counts_for_a_while():
    clock = Clock()
    worker_counts = WorkerCounts(lambda: {"a": 1}, clock=clock)
    assert worker_counts.latest() is None
    worker_counts.look()
    assert worker_counts.latest() == {"a": 1}
    clock.now += COUNTS_SECONDS
    assert worker_counts.latest() is None


def test_nothing_is_known_of_workers_whose_broker_is_away():
    answers = iter([{"a": 1}])

    def ask():
        for answer in answers:
            return answer
        raise BrokerUnavailable("away")

    worker_counts = WorkerCounts(ask)
    worker_counts.look()
    worker_counts.look()
    assert worker_counts.latest() is None


# ---- how values look -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hint", "shown"),
    [
        ("run `cbk init`", "run <code>cbk init</code>"),
        ("`a<b` & <i>", "<code>a&lt;b</code> &amp; &lt;i&gt;"),
        ("one ` alone <", "one ` alone &lt;"),
        ("\u202e", "\\u202e"),
    ],
)
def test_hint_shows_commands_as_code_and_obeys_nothing(hint, shown):
    assert marked(hint) == shown


def luminance(colour):
    """Relative luminance of #rgb or #rrggbb (WCAG 2.2)."""
    digits = colour.removeprefix("#")
    digits = "".join(digit * 2 for digit in digits) if len(digits) == 3 else digits
    shares = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("verdict", ["good", "bad"])
def test_headline_can_be_read_on_its_ground(verdict):
    style = (Path(page.__file__).parent / "static/style.css").read_text()
    rule = re.search(rf"^\.verdict\.{verdict} {{ color: (#\w+); background: (#\w+); }}$", style, re.MULTILINE)
    lighter, darker = sorted(map(luminance, rule.groups()), reverse=True)
    assert (lighter + 0.05) / (darker + 0.05) >= 4.5
