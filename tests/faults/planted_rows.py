"""Bugs planted in what the kit makes of rows and deletes: each takes out the mending of one fault that lost what lived."""

from tests.faults.planted import Plant

_ROWS = "tests/integration/retention/test_rows_and_deletes.py::test_"
_BRAKE = "tests/integration/retention/test_brake_window.py::test_"
_UNREAD = "tests/integration/intake/test_rows_that_cannot_be_read.py::test_"
_VERIFY = "tests/integration/verification/test_verification_harms_nothing.py::test_"
_COVERAGE = "cbk/rules/retention/coverage.py"
_RETENTION = "cbk/rules/retention/retention.py"
_SQLITE = ("-k", "sqlite")

ROW_PLANTS = {
    "an Id that changed its meaning is no doubt": Plant(
        _COVERAGE,
        '    return IN_DOUBT_CHANGED.format(row_id=named.source_id) if changed else ""\n',
        '    return ""\n',
        (f"{_ROWS}id_that_is_given_again_after_its_delete_keeps_the_new_file", *_SQLITE),
    ),
    "a date takes the doubt away": Plant(
        _COVERAGE,
        "    changed = named.poll == poll and ",
        "    changed = not is_after(deleted_at, named.created_at) and named.poll == poll and ",
        (f"{_ROWS}id_that_is_given_again_after_its_delete_keeps_the_new_file", *_SQLITE),
    ),
    "a delete goes by its file and not by its row": Plant(
        _COVERAGE,
        "    if entry.number is None or named.number is None or entry.number > named.number:\n        return False\n",
        "    if entry.number is None or named.number is None or entry.number > named.number:\n        return True\n",
        (f"{_ROWS}version_that_replaces_a_deleted_one_in_the_same_transaction_lives", *_SQLITE),
    ),
    "a row that came later is covered": Plant(
        _COVERAGE,
        "        return entry.poll < named.poll\n",
        "        return True\n",
        (f"{_ROWS}file_that_is_created_again_while_the_kit_is_off_is_stored_beside_what_waits", *_SQLITE),
    ),
    "the order of Ids does not count": Plant(
        _COVERAGE,
        "    if not ids_are_numbers:\n",
        "    if True:\n",
        (f"{_ROWS}lower_version_that_is_written_after_its_delete_lives_though_one_poll_sees_all", *_SQLITE),
    ),
    "dates keep nothing": Plant(
        _COVERAGE,
        "    return first > second\n",
        "    return False\n",
        (f"{_ROWS}dates_tell_a_row_that_came_after_its_delete_from_the_same_one_under_its_id", *_SQLITE),
    ),
    "a known Id is no news": Plant(
        "cbk/jobs/intake/rows.py",
        "if each.says == said), None)",
        "if each.says is not None), None)",
        (f"{_ROWS}row_that_is_changed_in_place_is_read_as_what_it_is_now", *_SQLITE),
        also=(
            (
                "cbk/jobs/intake/rows.py",
                "if each.says is not None and each.says not in says.get(source_id, set())",
                "if each.says is not None and source_id not in says",
            ),
        ),
    ),
    "a full read is not done twice": Plant(
        "cbk/rules/intake/reading.py",
        '        return "it never was"\n',
        '        return "it never was"\n    if last is not None:\n        return ""\n',
        (f"{_ROWS}row_that_commits_late_before_a_pause_longer_than_the_settling_time_is_stored", *_SQLITE),
    ),
    "an older copy that is stored is the newest": Plant(
        "cbk/edges/catalog/database/transitions.py",
        "        kept = sa.case((",
        "        kept = sa.case((versions.c.live.is_(True) & (versions.c.state == VersionState.STORED.value), 1), (",
        (f"{_ROWS}new_version_that_cannot_be_fetched_is_red_though_the_old_one_is_stored", *_SQLITE),
    ),
    "a version whose row is gone supersedes": Plant(
        _RETENTION,
        "        of_this_number += version.live and ",
        "        of_this_number += ",
        (f"{_ROWS}version_whose_row_went_without_a_delete_supersedes_nothing", *_SQLITE),
        also=(
            (
                _RETENTION,
                "    return other.number > version.number and other.live and ",
                "    return other.number > version.number and ",
            ),
        ),
    ),
    "other bytes of the same version take its name": Plant(
        "cbk/rules/intake/intake.py",
        "content.has_plain_name = not any(each.has_plain_name for each in same_number)",
        "content.has_plain_name = True",
        (f"{_ROWS}file_that_is_created_again_while_the_kit_is_off_is_stored_beside_what_waits", *_SQLITE),
    ),
    "a delete-log row that went after the prune takes nothing back": Plant(
        "cbk/edges/catalog/retention/removals.py",
        "    for batch in in_batches(sorted(ids)):\n        query = sa.select(removals.c.delete_id)",
        "    for batch in in_batches(sorted([])):\n        query = sa.select(removals.c.delete_id)",
        (f"{_ROWS}file_whose_delete_is_taken_back_after_its_prune_is_fetched_again", *_SQLITE),
    ),
    "what was pruned stays so when it lives again": Plant(
        "cbk/rules/intake/version_selection.py",
        " or (version.state is VersionState.PRUNED and version.live)",
        "",
        (f"{_ROWS}restored_dump_brings_back_what_was_deleted_since", *_SQLITE),
    ),
    "no row was ever seen, and that is well": Plant(
        "cbk/rules/status/health.py",
        "    if not ever_seen:\n",
        "    if False:\n",
        (f"{_ROWS}database_in_which_no_row_was_ever_seen_is_not_green", *_SQLITE),
    ),
    "the brake counts a day at a time": Plant(
        "cbk/jobs/retention/sweep.py",
        "    if allowance.is_exceeded:\n",
        "    if False:\n",
        (f"{_BRAKE}garbage_a_little_at_a_time_takes_no_more_than_the_share_of_the_window",),
    ),
    "quarantine takes whatever lies there": Plant(
        "cbk/edges/archive/archive.py",
        "            if only is not None and only != ",
        "            if False and only != ",
        (f"{_VERIFY}verification_that_slept_past_its_lease_leaves_the_copy_that_another_worker_stored",),
    ),
    "a row is deleted because its Id once was": Plant(
        "cbk/edges/catalog/intake/intake.py",
        "    return sa.select(rows.c.source_id).select_from(entries).where(*ours)\n",
        "    return sa.select(removals.c.row_id).where(removals.c.row_id.in_(source_ids), in_force)\n",
        (f"{_ROWS}declined_row_under_an_id_that_an_old_delete_names_is_red", *_SQLITE),
    ),
    "row-level security is not asked for": Plant(
        "cbk/edges/source/doubts.py",
        "            yield _row_security(named, table, role)\n",
        "            pass\n",
        (f"{_UNREAD}row_level_security_that_hides_rows_is_red",),
    ),
}
