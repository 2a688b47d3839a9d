"""What the benchmarks make of their measurements: ratios within a round, verdicts, and the page."""

import json
import xml.etree.ElementTree as ET

import pytest

from bench import page
from bench.arithmetic import arithmetic_table
from bench.plot import plot
from bench.profile import part_of, profile_table
from bench.report import case_table
from bench.results import Machine, Run, Session, Spread, ratios, runs_and_profiles
from bench.targets import TARGETS, target_table
from bench.watch import Usage

MB = 1000 * 1000
PI = Machine("Linux 6.6 on aarch64", 4, "3.13.1")
SERVER = Machine("Linux 6.12 on x86_64", 32, "3.11.2")


def run(case, contender, round_, seconds, *, cpu=1.0, memory=MB, files=100, name=None, **facts):
    used = {name or contender: Usage(cpu, memory)}
    return Run(case, contender, round_, files, files * MB, seconds, used, facts=facts)


def rounds(case, contender, *seconds, **more):
    return [run(case, contender, number, each, **more) for number, each in enumerate(seconds, start=1)]


def verdict(runs, what):
    (line,) = [line for line in target_table(runs).splitlines() if line.startswith(f"| {what}")]
    return line.split("|")[-2].strip()


def test_ratio_is_taken_within_each_round():
    runs = rounds("small", "us", 1.0, 10.0, 1.0) + rounds("small", "rclone-compress", 2.0, 20.0, 4.0)
    assert ratios(runs, "small", "us", "rclone-compress", "files_per_second") == Spread(2.0, 2.0, 4.0)


def test_ratio_leaves_out_a_round_that_only_one_took_part_in():
    runs = rounds("small", "us", 1.0, 1.0) + rounds("small", "naive", 3.0)
    assert ratios(runs, "small", "us", "naive", "files_per_second") == Spread(3.0, 3.0, 3.0)


def test_ratio_without_the_other_is_none():
    assert ratios(rounds("small", "us", 1.0), "small", "us", "naive", "files_per_second") is None


@pytest.mark.parametrize(("seconds", "expected"), [(1.0, "met"), (1.01, "**missed**")])
def test_target_is_met_from_its_limit_on(seconds, expected):
    runs = [run("small", "us", 1, seconds), run("small", "rclone-compress", 1, 2.0)]
    assert verdict(runs, "small files/s, over `rclone copy` to") == expected


@pytest.mark.parametrize(("cpu", "expected"), [(0.7, "met"), (0.71, "**missed**")])
def test_target_that_is_a_greatest_value_is_met_up_to_it(cpu, expected):
    runs = [run("small", "us", 1, 1.0, cpu=cpu), run("small", "rclone-compress", 1, 1.0)]
    assert verdict(runs, "small: CPU a file") == expected


def test_target_whose_case_was_not_run_is_not_met():
    assert {verdict([], target.what) for target in TARGETS} == {"not measured"}


@pytest.mark.parametrize(
    ("near_seconds", "expected"),
    [
        pytest.param(0.1, Spread(0.5, 0.5, 0.5), id="distance is the limit: 8 in flight, 40 ms each, are 200 files/s"),
        pytest.param(2.0, Spread(2.0, 2.0, 2.0), id="processors are the limit: 50 files/s nearby"),
    ],
)
def test_rate_at_a_distance_is_compared_with_the_nearest_limit(near_seconds, expected):
    runs = [run("delay", "us", 1, 1.0), run("delay", "us, without delay", 1, near_seconds)]
    (target,) = [target for target in TARGETS if "40 ms" in target.what]
    assert target.reached(runs) == expected


def test_memory_target_takes_the_greatest_worker_of_all_cases():
    runs = [
        run("small", "us", 1, 1.0, name="worker-1", memory=90 * MB),
        run("large", "us", 1, 1.0, name="worker-1", memory=151 * MB),
    ]
    assert verdict(runs, "peak memory of a worker") == "**missed**"


def test_four_workers_are_compared_with_four_times_one():
    runs = [run("hosts", "us, 1", 1, 4.0), run("hosts", "us, 4", 1, 1.0)]
    (target,) = [target for target in TARGETS if "4 workers" in target.what]
    assert target.reached(runs) == Spread(1.0, 1.0, 1.0)


def test_case_table_shows_medians():
    runs = rounds("small", "us", 1.0, 2.0, 4.0) + rounds("small", "naive", 4.0, 4.0, 4.0)
    us, naive = case_table(runs, "small").splitlines()[2:]
    assert us.startswith("| us | 50 | 50.0 | 10.00 | 1 |")
    assert naive.endswith("| 2.00 (1.00 to 4.00) | 1.00 (1.00 to 1.00) |")


def test_plot_draws_a_bar_as_long_as_its_median():
    svg = ET.fromstring(plot(rounds("small", "us", 1.0) + rounds("small", "naive", 4.0)))
    widths = [float(bar.get("width")) for bar in svg.iter("{http://www.w3.org/2000/svg}rect")]
    assert widths[0] == pytest.approx(4 * widths[1], rel=0.01)


def test_arithmetic_needs_what_it_is_made_of():
    assert arithmetic_table(rounds("small", "us", 1.0)) == ""


def test_arithmetic_grows_with_the_files():
    runs = rounds("small", "us, one worker", 1.0) + rounds("poll", "history", 1.0) + rounds("poll", "empty", 1.0)
    runs += [run("intake", "us", 0, 1.0, catalog_bytes_per_version=600.0, redis_bytes=2.0 * MB), run("reconcile", "us", 0, 1.0)]
    (catalog,) = [line for line in arithmetic_table(runs).splitlines() if line.startswith("| catalog")]
    assert catalog.split(" | ")[1:] == ["0.6", "60", "6,000 |"]


def test_arithmetic_draws_a_poll_on_from_what_a_history_adds_to_an_empty_table():
    runs = rounds("small", "us, one worker", 1.0) + rounds("poll", "history", 1.0, cpu=3.0) + rounds("poll", "empty", 1.0, cpu=2.0)
    facts = {"catalog_bytes_per_version": 600.0, "redis_bytes": 2.0 * MB}
    runs += [run("intake", "us", 0, 1.0, files=1_000_000, **facts), run("reconcile", "us", 0, 1.0)]
    (poll,) = [line for line in arithmetic_table(runs).splitlines() if line.startswith("| a poll")]
    assert poll.split(" | ")[1:] == ["30", "1,020", "100,020 |"]


@pytest.fixture
def performance_page(tmp_path, monkeypatch):
    copied = tmp_path / "performance.md"
    copied.write_text(page.PAGE.read_text())
    monkeypatch.setattr(page, "PAGE", copied)
    monkeypatch.setattr(page, "PLOT", tmp_path / "performance.svg")
    return copied


def test_page_has_a_mark_for_each_table(performance_page):
    runs = rounds("small", "us", 1.0) + rounds("small", "rclone-compress", 4.0)
    runs += rounds("poll", "history", 1.0) + rounds("poll", "empty", 1.0)
    runs += [run("intake", "us", 0, 1.0, catalog_bytes_per_version=600.0, redis_bytes=2.0 * MB), run("reconcile", "us", 0, 1.0)]
    page.write_page([Session("python -m bench", "abc", 1, 60, runs, {"small": "| the profile |"})])
    text = performance_page.read_text()
    for shown in (
        "| ≥ 2 | 4.00 (4.00 to 4.00) | met |",
        "| small | file/s |",
        "| the profile |",
        "bytes a version",
        "`python -m bench` at abc, 0:01:00 hours",
    ):
        assert text.count(shown) == 1


def test_page_that_is_written_again_holds_the_last_run_only(performance_page):
    for seconds in (4.0, 8.0):
        runs = rounds("small", "us", 1.0) + rounds("small", "rclone-compress", seconds)
        page.write_page([Session("python -m bench", "abc", 1, 60, runs, {})])
    assert "4.00 (4.00 to 4.00)" not in performance_page.read_text()
    assert "8.00 (8.00 to 8.00)" in performance_page.read_text()


def test_session_is_read_as_it_was_written():
    runs = [run("small", "us", 1, 2.0, failures=1)]
    session = Session("python -m bench small", "abc", 0.5, 60.0, runs, {"small": "| a table |"}, PI)
    assert Session.from_json(json.loads(json.dumps(session.as_json()))) == session


def test_session_that_does_not_tell_its_machine_is_read_as_well():
    session = Session("python -m bench small", "abc", 0.5, 60.0, [], {}, PI)
    values = session.as_json()
    del values["machine"]
    assert Session.from_json(values).machine is None


def test_cases_of_several_commands_stand_side_by_side_and_the_last_one_counts():
    first = Session("a", "abc", 1, 1, [run("small", "us", 1, 1.0), run("poll", "us", 1, 1.0)], {"small": "old"})
    second = Session("b", "abc", 1, 1, [run("small", "us", 1, 2.0)], {"small": "new"})
    runs, profiles = runs_and_profiles([first, second])
    assert {(each.case, each.seconds) for each in runs} == {("small", 2.0), ("poll", 1.0)}
    assert profiles == {"small": "new"}


def test_page_names_each_command(performance_page):
    page.write_page([Session(f"python -m bench {case}", "abc", 1, 60, [run(case, "us", 1, 1.0)], {}) for case in ("small", "poll")])
    assert (
        "`python -m bench small` at abc, 0:01:00 hours; `python -m bench poll` at abc, 0:01:00 hours.\n"
        in performance_page.read_text()
    )


def sessions_on(*machines):
    return [Session(f"bench {number}", "abc", 1, 60, [], {}, machine) for number, machine in enumerate(machines)]


def test_page_names_the_machine_once_where_all_was_measured_on_it(performance_page):
    page.write_page(sessions_on(PI, PI))
    assert "`bench 1` at abc, 0:01:00 hours. Linux 6.6 on aarch64, 4 processors, Python 3.13.1.\n" in performance_page.read_text()
    assert performance_page.read_text().count("aarch64") == 1


def test_page_names_the_machine_of_each_command_where_they_differ(performance_page):
    page.write_page(sessions_on(PI, SERVER, None))
    assert (
        "`bench 0` at abc, 0:01:00 hours (Linux 6.6 on aarch64, 4 processors, Python 3.13.1); "
        "`bench 1` at abc, 0:01:00 hours (Linux 6.12 on x86_64, 32 processors, Python 3.11.2); "
        "`bench 2` at abc, 0:01:00 hours (on a machine that its file does not name).\n"
    ) in performance_page.read_text()


def test_page_names_no_machine_where_none_is_told(performance_page):
    page.write_page(sessions_on(None, None))
    assert "`bench 1` at abc, 0:01:00 hours.\n" in performance_page.read_text()


def test_page_says_that_a_shrunken_run_is_none_to_quote(performance_page):
    page.write_page([Session("python -m bench", "abc", 0.05, 60, rounds("small", "us", 1.0), {})])
    assert "only 5% of the files" in performance_page.read_text()


ARCHIVE = "Publication.flush (/srv/cbk/edges/archive/archive.py:10)"


@pytest.mark.parametrize(
    ("frames", "part"),
    [
        (
            ["back_up (/srv/cbk/jobs/backup/backup.py:1)", ARCHIVE, "_sync (/srv/cbk/edges/archive/archive.py:90)"],
            "archive: publish",
        ),
        (
            [
                "back_up (/srv/cbk/jobs/backup/backup.py:1)",
                "claim (/srv/cbk/edges/catalog/work_queue.py:1)",
                "x (sqlalchemy/a.py:1)",
            ],
            "catalog",
        ),
        (["poll (/srv/cbk/jobs/poll/poll.py:1)", "claim (/srv/cbk/edges/catalog/work_queue.py:1)"], "poll"),
        (["main (/usr/lib/python3.11/threading.py:1)"], "Python itself"),
    ],
)
def test_stack_belongs_to_the_part_that_was_at_work(frames, part):
    assert part_of(frames).startswith(part)


def test_profile_shares_out_the_processor_time_among_busy_stacks():
    idle = "run (/usr/lib/python3.11/threading.py:1);_worker (/usr/lib/python3.11/concurrent/futures/thread.py:81) 96"
    folded = f"{idle}\npoll (/srv/cbk/jobs/poll/poll.py:1) 1\nback_up (/srv/cbk/jobs/backup/backup.py:1);{ARCHIVE} 3\n"
    assert "| archive: publish (folders, rename, flush of folders) | 75.0% | 7.50 |" in profile_table(
        folded, files=100, seconds=1.0
    )
