"""When a worker counts as deaf, and what it does about it: looks as they come, and what is decided after each."""

from datetime import timedelta

from cbk.cluster.worker.watchdog import patience_for
from cbk.rules.cluster.watchdog import Act, ConsumerState, Silence, judge

PATIENCE = timedelta(seconds=60)
EVERY = 20


def acts(*looks):
    """What is done after each of these looks, (waiting, taken, free) or None, which come every 20 seconds."""
    silence, done = Silence(), []
    for number, seen in enumerate(looks):
        look = seen and ConsumerState(at=1000.0 + number * EVERY, waiting=seen[0], taken=seen[1], free=seen[2])
        act, silence = judge(look, silence, patience=PATIENCE)
        done.append(act)
    return done


def test_worker_that_takes_nothing_while_work_waits_connects_again_then_stops_then_ends():
    deaf = [(1, 7, 8)] * 17
    expected = {4: Act.RECONNECT, 8: Act.STOP, 12: Act.END, 16: Act.END}
    assert acts(*deaf) == [expected.get(number, Act.NOTHING) for number in range(17)]


def test_worker_that_takes_something_now_and_then_is_left_alone():
    assert set(acts(*[(500, number // 3, 8) for number in range(30)])) == {Act.NOTHING}


def test_worker_without_work_is_left_alone():
    assert set(acts(*[(0, 7, 8)] * 30)) == {Act.NOTHING}


def test_worker_with_both_hands_full_is_left_alone():
    assert set(acts(*[(500, 7, 0)] * 30)) == {Act.NOTHING}


def test_worker_is_left_alone_while_redis_is_away():
    assert set(acts(*[None] * 30)) == {Act.NOTHING}


def test_silence_is_counted_anew_once_redis_is_back():
    assert Act.RECONNECT not in acts(*[(1, 0, 8)] * 3, None, *[(1, 0, 8)] * 3)


def test_worker_that_hears_again_after_it_connected_begins_at_the_mildest_thing_the_next_time():
    heard_again = [(1, 0, 8)] * 6 + [(1, 1, 8)] + [(1, 1, 8)] * 5
    assert [act for act in acts(*heard_again) if act is not Act.NOTHING] == [Act.RECONNECT, Act.RECONNECT]


def test_single_look_after_a_long_pause_is_not_enough():
    late = ConsumerState(at=10_000.0, waiting=1, taken=0, free=8)
    before = Silence(since=0.0, looks=1)
    assert judge(late, before, patience=PATIENCE)[0] is Act.NOTHING


def test_patience_is_a_lease_but_lets_kombu_notice_first():
    assert patience_for(timedelta(minutes=2), {"health_check_interval": 25}) == timedelta(minutes=2)
    assert patience_for(timedelta(seconds=5), {"health_check_interval": 25}) == timedelta(seconds=75)
