import hashlib
import itertools
import ntpath
import posixpath
import re
from pathlib import PureWindowsPath

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cbk.rules.intake.layout import (
    COPY_NAME,
    bucket_folder,
    contested_paths,
    copy_location,
    former_key,
    former_keys,
    object_key,
    place_key,
    places,
    restore_names,
    restore_path,
    split_key,
)

NO_CLOCK = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine fails no test

HASH = "0123456789abcdef" * 4

# What hostile and careless names are made of.
SHAPES = ["", ".", "..", "...", " ", "/", "//", "\\", "\0", "\n", "\x7f", "\x9b", "a:b", "a*b?", '<">|', "a" * 240, "é" * 150]
OURS = ["%", "%2E", "%2F", "%long", "~", f"~{HASH}", f"~{HASH.upper()}", ".cbk", ".CBK", "lost+found"]
COPIES = ["v1.gzip", "V2.GZIP", "v3.gzip.png", "v", "1", ".gzip", ".g\u200dzip", ".png", ".jpg", "thumbnail", "THUMBNAIL"]
DEVICES = ["nul", "CON.txt", "com1", "lpt¹.x", "conin$"]
FOLDING = ["é", "e\u0301", "ß", "ss", "İ", "\u0131", "\u017f", "\u212a", "\u1f71", "日本語", "👨\u200d👩\u200d👧"]
BROKEN = ["\u202egpj.exe", "\u2028", "\ufeff", "\ud800", "\udfff"]
PIECES = st.sampled_from([*SHAPES, *OURS, *COPIES, *DEVICES, *FOLDING, *BROKEN])
TEXTS = st.one_of(st.lists(PIECES, max_size=6).map("".join), st.text(st.characters(), max_size=30))
KEYS = st.lists(TEXTS, min_size=1, max_size=5).map("/".join).filter(bool)
BUCKETS = st.one_of(st.just("car-erp"), TEXTS)


def allocate(files):
    """The catalog's procedure: the first candidate whose `place_key` nobody has."""
    taken = {}
    for storage, bucket, key in files:
        free = next(place for place in places(bucket, key, storage) if place_key(place) not in taken)
        taken[place_key(free)] = free
    return list(taken.values())


def restored(files):
    """The paths of files that are restored together, in the order of (storage, bucket, key)."""
    contested = contested_paths(restore_path(bucket, key, storage) for storage, bucket, key in files)
    own = [restore_path(bucket, key, storage) for storage, bucket, key in files]
    return [
        restore_path(bucket, key, storage, contested=path in contested)
        for path, (storage, bucket, key) in zip(own, files, strict=True)
    ]


def is_reserved(name):
    """What Windows says; before 3.13 it is asked elsewhere."""
    return ntpath.isreserved(name) if hasattr(ntpath, "isreserved") else PureWindowsPath(name).is_reserved()


def segments(bucket, key):
    return [segment for place in places(bucket, key) for segment in place.split("/")]


# ---- keys --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "name", "key"),
    [
        ("path/in/s3/", "FileName.jpg", "path/in/s3/FileName.jpg"),
        ("/path/in/s3", "/FileName.jpg", "path/in/s3/FileName.jpg"),
        ("path", "FileName.jpg", "path/FileName.jpg"),
        ("", "FileName.jpg", "FileName.jpg"),
        ("", "/FileName.jpg", "FileName.jpg"),
        ("/", "FileName.jpg", "FileName.jpg"),
        ("a//b/", "c//d.jpg", "a//b/c//d.jpg"),
        ("a/", "/b", "a//b"),
        ("a//", "b", "a//b"),
        ("a", "//b", "a//b"),
        ("", "/a//b", "a//b"),
        ("/a/", "/b", "a//b"),
        ("//a", "b", "/a/b"),
        ("/", "/b", "/b"),
        ("", "//b", "/b"),
        ("///", "//FileName.jpg", "////FileName.jpg"),
        ("a", "folder/", "a/folder/"),
        ("a", "folder//", "a/folder//"),
    ],
)
def test_object_key_puts_a_slash_where_none_is_drops_one_in_front_and_changes_nothing_else(path, name, key):
    assert object_key(path, name) == key


@pytest.mark.parametrize("key", ["cars/x.png", "cars//x.png", "/cars/x.png", "//cars/x.png", "cars/x.png/", "cars/x.png//"])
def test_keys_that_differ_in_slashes_alone_have_places_and_restored_names_of_their_own(key):
    others = {"cars/x.png", "cars//x.png", "/cars/x.png", "//cars/x.png", "cars/x.png/", "cars/x.png//"} - {key}
    assert not set(places("b", key)) & {place for other in others for place in places("b", other)}
    assert restore_path("b", key, "s3") not in {restore_path("b", other, "s3") for other in others}


@NO_CLOCK
@given(st.text("a/", max_size=8), st.text("a/", min_size=1, max_size=8))
def test_key_that_an_earlier_release_gave_is_among_the_former_keys(path, name):
    former, key = former_key(path, name), object_key(path, name)
    assert former in {"", key, *former_keys(key)}


@pytest.mark.parametrize("key", ["cars/x.png", "x.png", "cars/x/", "写真/a b.png"])
def test_key_without_doubled_slashes_never_was_another_one(key):
    assert former_keys(key) == ()


@NO_CLOCK
@given(KEYS)
def test_split_key_gives_two_halves_that_are_the_key_again(key):
    path, name = split_key(key)
    assert path + name == key
    assert path == "" or path.endswith("/")
    assert "/" not in name


# ---- the documented paths ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "number", "location"),
    [
        ("cars/id-1/thumbnail.png", 1, "car-erp/cars/id-1/thumbnail/v1.gzip"),
        ("/cars/id-1/thumbnail.png", 1, "car-erp/%2F/cars/id-1/thumbnail/v1.gzip"),
        ("cars/1ff7f0ca-7d5a-4ad5.png", 2, "car-erp/cars/1ff7f0ca-7d5a-4ad5/v2.gzip"),
        ("archive.tar.gz", 0, "car-erp/archive.tar/v0.gzip"),
        ("cars/README", 3, "car-erp/cars/README/v3.gzip"),
        ("cars/.gitignore", 1, "car-erp/cars/.gitignore/v1.gzip"),
        ("Fotos/Straße nach Čáslav.jpeg", 1, "car-erp/Fotos/Straße nach Čáslav/v1.gzip"),
        ("写真/👨\u200d👩\u200d👧.png", 1, "car-erp/写真/👨\u200d👩\u200d👧/v1.gzip"),
        ("100% sure.txt", 1, "car-erp/100% sure/v1.gzip"),
    ],
)
def test_places_gives_the_documented_path_to_an_ordinary_key(key, number, location):
    assert copy_location(places("car-erp", key)[0], number) == location


def test_places_goes_on_with_the_extension_a_short_hash_and_a_full_hash():
    first, second, third, fourth = places("car-erp", "cars/thumbnail.jpg")
    assert (first, second) == ("car-erp/cars/thumbnail", "car-erp/cars/thumbnail.jpg")
    assert re.fullmatch(r"car-erp/cars/thumbnail\.jpg~[0-9a-f]{12}", third)
    assert re.fullmatch(r"car-erp/cars/thumbnail\.jpg~[0-9a-f]{64}", fourth)


@pytest.mark.parametrize(
    ("key", "place"),
    [
        ("../../etc/passwd", "b/%2E%2E/%2E%2E/etc/passwd"),
        ("a/./b", "b/a/%2E/b"),
        ("a//b.txt", "b/a/%2F/b"),
        ("a/folder/", "b/a/folder/%2F"),
        ("a\\b\0c\n.txt", "b/a%5Cb%00c%0A"),
        ("\x85\x9b", "b/%C2%85%C2%9B"),
        ('<x>:"|?*', "b/%3Cx%3E%3A%22%7C%3F%2A"),
        ("\u202efdp.exe", "b/%E2%80%AEfdp"),
        ("\ud800.bin", "b/%ED%A0%80"),
        ("dot./space /x", "b/dot%2E/space%20/x"),
        ("...", "b/..%2E"),
        ("nul.txt", "b/%6Eul"),
        ("CON/com1.log/x", "b/%43ON/%63om1.log/x"),
        ("console/nullable.x", "b/console/nullable"),
        ("v1.gzip/V22.GZIP/x", "b/v1%2Egzip/V22%2EGZIP/x"),
        ("v1.gzip.png", "b/v1%2Egzip"),
        ("v1.g\u200dzip/x", "b/v1%2Eg\u200dzip/x"),
        ("v1.gzip", "b/v1"),
        ("%long/x", "b/%25long/x"),
    ],
)
def test_places_encodes_what_a_disk_cannot_hold_or_the_kit_means_otherwise(key, place):
    assert places("b", key)[0] == place


@pytest.mark.parametrize(
    ("bucket", "folder"),
    [
        ("car-erp", "car-erp"),
        ("a/b", "a%2Fb"),
        ("/", "%2F"),
        ("", "%2F"),
        ("..", "%2E%2E"),
        (".cbk", "%2Ecbk"),
        (".CBK", "%2ECBK"),
        ("lost+found", "%6Cost+found"),
        ("aux", "%61ux"),
    ],
)
def test_bucket_folder_is_one_safe_segment_and_not_the_kits_own(bucket, folder):
    assert bucket_folder(bucket) == folder
    assert places(bucket, "x")[0] == f"{folder}/x"


def test_places_shortens_a_long_name_at_a_character_and_keeps_a_readable_head():
    name = "é" * 300
    first = places("b", f"{name}.png")[0].removeprefix("b/")
    head, mark = first.split("~")
    assert head == "é" * len(head)
    assert 250 <= len(first.encode()) <= 255
    assert mark == hashlib.sha256(name.encode()).hexdigest()[:16]


def test_places_tells_two_long_names_with_the_same_head_apart():
    assert places("b", "a" * 300 + "1")[0] != places("b", "a" * 300 + "2")[0]


@pytest.mark.parametrize("key", ["a/" * 99 + "x", ("a" * 250 + "/") * 8 + "x", "\x01" * 80 + "/" + ("\x01" * 80 + "/") * 9])
def test_places_folds_a_key_that_is_too_deep_or_too_long_for_a_disk(key):
    (place,) = places("b", key)
    assert re.fullmatch(r"b/%long/[0-9a-f]{64}", place)
    assert place != places("b", key + "x")[0]


def test_places_keeps_a_deep_key_that_a_disk_can_hold():
    assert places("b", "a/" * 98 + "x.png")[0] == "b/" + "a/" * 98 + "x"


def test_places_tells_two_storages_in_one_bucket_folder_apart():
    assert len(set(allocate([(f"s{number}", "b", "x.png") for number in range(6)]))) == 6


# ---- what holds for every key ------------------------------------------------------------------------------------------------


@NO_CLOCK
@given(BUCKETS, KEYS, st.integers(0, 2**63 - 1))
def test_places_never_leaves_the_root(bucket, key, number):
    for place in places(bucket, key):
        location = copy_location(place, number)
        assert posixpath.normpath(location) == location
        assert not location.startswith(("/", "../", ".cbk/"))
        assert len(place.split("/")) >= 2
        assert place.split("/")[0] == bucket_folder(bucket)


@NO_CLOCK
@given(BUCKETS, KEYS)
@example("b", "x" * 254 + ".png")
def test_places_gives_only_segments_that_every_disk_can_hold(bucket, key):
    for segment in segments(bucket, key):
        assert segment not in {"", ".", ".."}
        assert len(segment.encode()) <= 255
        assert segment[-1] not in ". "
        assert not re.search(r'[\x00-\x1f\x7f-\x9f\\<>:"|?*\u202a-\u202e\u2066-\u2069]', segment)
        assert not is_reserved(segment)


@NO_CLOCK
@given(BUCKETS, KEYS)
def test_places_has_no_folder_where_another_copy_could_be(bucket, key):
    assert not [segment for segment in segments(bucket, key) if COPY_NAME.fullmatch(place_key(segment))]


@NO_CLOCK
@given(BUCKETS, KEYS)
def test_places_fit_in_a_path(bucket, key):
    assert all(len(place.encode()) <= 2000 and place.count("/") < 100 for place in places(bucket, key))


@NO_CLOCK
@given(st.lists(st.tuples(st.sampled_from(["s3", "r2"]), BUCKETS, KEYS), unique=True, max_size=12))
def test_places_always_leaves_each_file_a_place_of_its_own(files):
    found = allocate(files)
    assert len(found) == len(files)
    locations = {place_key(copy_location(place, number)) for place in found for number in (1, 2)}
    folders = {place_key(folder) for place in found for folder in itertools.accumulate(place.split("/"), "{}/{}".format)}
    assert len(locations) == 2 * len(files)
    assert not locations & folders


@NO_CLOCK
@given(KEYS, st.sampled_from(["", ".png", "/x", " "]))
def test_places_ends_with_one_that_no_other_key_can_be_spelt_into(key, ending):
    last = place_key(places("b", key)[-1])
    for candidate in places("b", key):
        spelt = candidate.removeprefix("b/") + ending
        if spelt != key:
            assert last not in map(place_key, places("b", spelt))


@NO_CLOCK
@given(BUCKETS, KEYS)
def test_places_is_the_same_each_time(bucket, key):
    assert places(bucket, key) == places(bucket, key)


# ---- place_key ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("b/Thumbnail", "B/tHUMBNAIL"),
        ("b/\u00e9", "b/e\u0301"),
        ("b/É", "b/e\u0301"),
        ("b/Straße", "b/STRASSE"),
        ("b/\u212a", "b/k"),
        ("b/x\u200dy", "b/xy"),
        ("b/\u1f80", "b/\u1f88"),
        ("b/\u1fb4", "b/\u03b1\u0345\u0301"),
    ],
)
def test_place_key_is_equal_for_names_that_some_disk_takes_for_one(one, other):
    assert place_key(one) == place_key(other)


@pytest.mark.parametrize(("one", "other"), [("b/x", "b/y"), ("b/e", "b/é"), ("b/x", "b/x ")])
def test_place_key_differs_for_names_that_every_disk_tells_apart(one, other):
    assert place_key(one) != place_key(other)


@NO_CLOCK
@given(TEXTS)
def test_place_key_of_itself_is_itself(text):
    assert place_key(place_key(text)) == place_key(text)


# ---- where files are restored to ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key",
    [
        "cars/id-1/thumbnail.png",
        "a",
        "-rf",
        "a b",
        "Größe/写真.png",
        ".hidden",
        "a\\b",
        'say "hi"\n',
        "con.txt",
        "v1.gzip",
        "100%25",
    ],
)
def test_file_is_restored_under_its_own_name(key):
    assert restore_path("car-erp", key, "s3") == f"car-erp/{key}"


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("..", "b/%2E%2E"),
        ("../../etc/passwd", "b/%2E%2E/%2E%2E/etc/passwd"),
        ("a/./b", "b/a/%2E/b"),
        ("a//b", "b/a/%2F/b"),
        ("a/", "b/a/%2F"),
        ("a\0b", "b/a%00b"),
        ("\ud800", "b/%ED%A0%80"),
        (f"a~{HASH}", f"b/a%7E{HASH}"),
        (f"a~{HASH}/b", f"b/a%7E{HASH}/b"),
        (f"a~{HASH}.png", f"b/a~{HASH}.png"),
    ],
)
def test_name_that_no_folder_can_have_is_spelt_otherwise(key, path):
    assert restore_path("b", key, "s3") == path


def test_bucket_that_would_be_the_kits_own_folder_is_spelt_otherwise():
    assert restore_path(".cbk", "a", "s3") == "%2Ecbk/a"


def test_name_that_is_too_long_is_shortened_with_a_hash():
    path = restore_path("b", "a" * 300 + ".png", "s3")
    assert re.fullmatch("b/a{238}~[0-9a-f]{16}", path)


def test_key_that_is_too_long_for_any_path_has_a_hash_for_its_name():
    assert re.fullmatch("b/%long/[0-9a-f]{64}", restore_path("b", "/".join(["abc"] * 900), "s3"))


def test_file_gives_way_to_those_that_lie_below_its_name():
    first, *others = restored([("s3", "b", "a"), ("s3", "b", "a/b"), ("s3", "b", "a b"), ("s3", "b", "a.png")])
    assert re.fullmatch("b/a~[0-9a-f]{64}", first)
    assert others == ["b/a/b", "b/a b", "b/a.png"]


def test_one_key_in_two_storages_of_one_bucket_gives_two_files():
    one, other = restored([("s3", "b", "a.png"), ("r2", "b", "a.png")])
    assert re.fullmatch("b/a.png~[0-9a-f]{64}", one)
    assert re.fullmatch("b/a.png~[0-9a-f]{64}", other)
    assert one != other


@NO_CLOCK
@given(st.lists(st.tuples(st.sampled_from(["s3", "r2"]), st.sampled_from(["b", "c"]), KEYS), unique=True, max_size=12))
@example([("s3", "b", "a"), ("s3", "b", "a/b"), ("s3", "b", "a/b/c"), ("s3", "b", restore_names("a", "s3")[1])])
@example([("s3", "b", "a/"), ("s3", "b", "a/%2F"), ("s3", "b", "a/%2F/x"), ("r2", "b", "a")])
def test_files_that_are_restored_together_do_not_meet(files):
    found = restored(files)
    folders = {folder for path in found for folder in itertools.accumulate(path.split("/")[:-1], "{}/{}".format)}
    assert len(set(found)) == len(files)
    assert not set(found) & folders


@NO_CLOCK
@given(st.lists(st.tuples(st.sampled_from(["s3", "r2"]), st.just("b"), KEYS), unique=True, max_size=8), st.randoms())
def test_order_in_which_files_are_restored_makes_no_difference(files, random):
    shuffled = random.sample(files, len(files))
    assert dict(zip(files, restored(files), strict=True)) == dict(zip(shuffled, restored(shuffled), strict=True))


@NO_CLOCK
@given(BUCKETS, KEYS, st.booleans())
def test_restored_file_never_leaves_the_target_and_any_linux_disk_can_hold_its_name(bucket, key, contested):
    path = restore_path(bucket, key, "s3", contested=contested)
    assert not {"", ".", ".."} & set(path.split("/"))
    assert all(len(segment.encode()) <= 255 for segment in path.split("/"))
    assert len(path.encode()) <= 2300
    assert "\0" not in path
    assert path.split("/")[0] != ".cbk"
