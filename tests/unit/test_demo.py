"""The demo's parts that need no server."""

from rich.console import Console

from demo import tree_of
from sample_files import samples


def drawn(root):
    console = Console(width=100, force_terminal=False)
    with console.capture() as capture:
        console.print(tree_of(root))
    return [line.rstrip() for line in capture.get().splitlines()[1:]]


def test_tree_gives_a_folder_with_one_file_a_single_line(tmp_path):
    (tmp_path / "car-erp/cars/id-1").mkdir(parents=True)
    (tmp_path / "car-erp/cars/id-1/v1.gzip").write_bytes(b"x" * 1234)
    assert drawn(tmp_path) == ["└── car-erp/cars/id-1/v1.gzip  1,234 bytes"]


def test_tree_opens_a_folder_with_several_things(tmp_path):
    for name in ("v1.gzip", "v2.gzip"):
        (tmp_path / name).touch()
    assert drawn(tmp_path) == ["├── v1.gzip  0 bytes", "└── v2.gzip  0 bytes"]


def test_tree_only_counts_the_last_of_many(tmp_path):
    for number in range(25):
        (tmp_path / f"{number:02}").mkdir()
        (tmp_path / f"{number:02}/v1.gzip").touch()
    assert drawn(tmp_path)[-2:] == ["├── 09/v1.gzip  0 bytes", "└── and 15 more like these"]


def test_tree_shows_a_name_as_it_is(tmp_path):
    (tmp_path / "[bold]red").touch()
    assert drawn(tmp_path) == ["└── [bold]red  0 bytes"]


def test_samples_are_the_same_each_time():
    assert samples(40) == samples(40)


def test_samples_are_as_many_as_asked_for_and_no_two_of_one_key():
    assert len({sample.key for sample in samples(200)}) == 200
    assert len(samples(3)) == 3


def test_samples_hold_what_is_awkward():
    keys = {sample.key: sample for sample in samples(60)}
    assert {"cars/id-1/thumbnail.png", "cars/id-1/thumbnail.jpg", "notes/README"} <= set(keys)
    assert keys["notes/empty.txt"].versions == (b"",)
    assert any(not key.isascii() for key in keys)
    assert [len(sample.versions) for sample in keys.values() if len(sample.versions) > 1] == [2]
