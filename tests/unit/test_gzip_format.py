import dataclasses
import gzip
import hashlib
import json
import random
import re
import subprocess
import tracemalloc
import zlib
from urllib.parse import unquote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cbk.errors import CopyCorrupt
from cbk.model import CopyHeader
from cbk.rules.backup.gzip_format import (
    BLOCK_BYTES,
    CHUNK_MAX_BYTES,
    HEADER_MAX_BYTES,
    Decoder,
    Encoder,
    decode_header,
    encode_header,
    encode_trailer,
)
from cbk.rules.intake.layout import restore_names

NO_CLOCK = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine fails no test

RANDOM = random.Random(7).randbytes(5 * BLOCK_BYTES + 4321)  # as media files are: it does not compress
TEXT = b"".join(b"line %d of a log that compresses well\n" % number for number in range(60_000))

CONTENTS = {
    "empty": b"",
    "one byte": b"x",
    "tiny": b"hello",
    "65535 random": RANDOM[:65_535],
    "65536 random": RANDOM[:65_536],
    "65537 zeros": bytes(65_537),
    "a block of text": TEXT[:BLOCK_BYTES],
    "a block and a byte": TEXT[: BLOCK_BYTES + 1],
    "random": RANDOM,
    "text": TEXT,
    "mixed": RANDOM[:300_000] + TEXT + RANDOM[:BLOCK_BYTES] + bytes(BLOCK_BYTES) + RANDOM[:77],
}


def make_header(content=b"", **overrides):
    values = {
        "storage": "s3",
        "path": "cars/id-1/",
        "name": "thumbnail.png",
        "version": 1,
        "content_type": "image/png",
        "source_id": "7",
    }
    return CopyHeader(sha256=hashlib.sha256(content).hexdigest(), size=len(content), **(values | overrides))


def encode(content, chunk_bytes=100_000):
    encoder = Encoder()
    output = []
    for start in range(0, len(content), chunk_bytes):
        output += encoder.feed(memoryview(content)[start : start + chunk_bytes])
    output.append(encoder.finish())
    assert encoder.bytes_in == len(content)
    return b"".join(output)


def copy_of(content, **overrides):
    return encode_header(make_header(content, **overrides)) + encode(content)


def decode(copy):
    return b"".join(Decoder([copy]))


@pytest.fixture(params=CONTENTS.values(), ids=CONTENTS.keys())
def content(request):
    return request.param


# ---- any gunzip reads it -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["zcat"], ["gzip", "-dc", "-S", ".gzip"], ["gunzip", "-c"]], ids=" ".join)
def test_copy_is_read_by_the_gzip_program_from_its_input(command, content):
    assert subprocess.run(command, input=copy_of(content), capture_output=True, check=True).stdout == content


@pytest.mark.parametrize("command", [["zcat"], ["gzip", "-dc", "-S", ".gzip"]], ids=" ".join)
def test_copy_is_read_by_the_gzip_program_from_its_file(tmp_path, command, content):
    (tmp_path / "v1.gzip").write_bytes(copy_of(content))
    done = subprocess.run([*command, "v1.gzip"], cwd=tmp_path, capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (content, b"")


def test_copy_is_read_by_python(content):
    assert gzip.decompress(copy_of(content)) == content


def test_copy_is_given_its_original_name_by_gzip(tmp_path):
    (tmp_path / "v1.gzip").write_bytes(copy_of(b"hello", name="Größe.png"))
    subprocess.run(["gzip", "-dN", "-S", ".gzip", "v1.gzip"], cwd=tmp_path, check=True)
    assert (tmp_path / "Größe.png").read_bytes() == b"hello"


# ---- the header --------------------------------------------------------------------------------------------------------------

HEADERS = {
    "ordinary": {},
    "no optional field": {"content_type": None, "source_id": None},
    "no path": {"path": ""},
    "no name": {"name": ""},
    "dots for a name": {"name": ".."},
    "unicode": {"path": "Fotos/Größe/", "name": "写真.png"},
    "control characters": {"path": "a\0b\n/", "name": "\x1b[31m\x9b.png"},
    "lone surrogate": {"name": "\ud800.png"},
    "quotes and braces": {"name": '"}{\\".png'},
    "longest key": {"path": "\0" * 2047 + "/", "name": "\0" * 2048},
    "great version": {"version": 2**63 - 1},
}


@pytest.fixture(params=HEADERS.values(), ids=HEADERS.keys())
def header(request):
    return make_header(**request.param)


def test_header_says_again_what_it_was_told(header):
    data = encode_header(header)
    assert decode_header(data + b"body") == (header, len(data))


def test_header_is_skipped_by_other_readers(header):
    assert gzip.decompress(encode_header(header) + encode(b"hello")) == b"hello"


@pytest.mark.parametrize("size", [0, 1, 999_999, 2**32, 2**63 - 1])
def test_header_has_the_same_length_for_any_size(size):
    data = encode_header(make_header())
    sized = encode_header(dataclasses.replace(make_header(), size=size))
    assert len(sized) == len(data)
    assert decode_header(sized)[0].size == size


def test_header_holds_plain_json_that_a_person_can_find():
    data = encode_header(make_header(b"hello", name="Größe.png"))
    start = data.index(b'{"storage')
    fields = json.loads(data[start : data.index(b"}", start) + 1])
    restore_as = fields.pop("restore_as")
    restore_else = fields.pop("restore_else")
    assert fields | {"properties": None} == dataclasses.asdict(make_header(b"hello", name="Größe.png"))
    assert (restore_as, restore_else[:-64]) == ("cars/id-1/Gr%C3%B6%C3%9Fe.png", f"{restore_as}~")


def test_header_says_first_what_the_shell_script_of_the_first_release_reads_and_in_its_order():
    document = encode_header(make_header(b"hello"))[16:]
    known = ["storage", "path", "name", "version", "sha256", "content_type", "source_id", "restore_as", "restore_else", "size"]
    fields = json.loads(document[: document.index(b"}") + 1])
    assert list(fields)[: len(known)] == known


@given(st.text(st.characters(), max_size=30))
def test_header_spells_the_names_of_a_restore_so_that_any_tool_can_cut_them_out(name):
    document = encode_header(make_header(name=name))[16:]
    (restore_as,) = re.match(rb'{"storage":"s3",.*?,"restore_as":"([^"]*)","restore_else":"[^"]*","size":0 ', document).groups()
    assert re.fullmatch(rb"(?:[A-Za-z0-9_.~/-]|%[0-9A-F]{2})+", restore_as)
    assert unquote(restore_as.decode()) == restore_names(f"cars/id-1/{name}", "s3")[0]


def test_header_of_an_earlier_kit_which_has_no_names_for_a_restore_is_read():
    header = make_header(b"hello")
    document = re.sub(rb',"restore_as":.*?(?=,"size")', b"", encode_header(header)[16:].partition(b"CC")[0])
    extra = b"CB" + len(document).to_bytes(2, "little") + document + b"CC\x04\x00" + zlib.crc32(document).to_bytes(4, "little")
    data = encode_header(header)[:3] + b"\x04" + bytes(5) + b"\xff" + len(extra).to_bytes(2, "little") + extra
    assert decode_header(data) == (header, len(data))


def test_header_names_no_time_and_no_system():
    assert encode_header(make_header())[4:10] == bytes([0, 0, 0, 0, 0, 255])


def test_header_has_no_slash_and_no_control_character_in_its_file_name():
    data = encode_header(make_header(name="a\\b\nc\x9bd"))
    assert data.rpartition(b"CC")[2][6:] == b"a_b_c_d\0"


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_header_has_no_file_name_where_gzip_could_not_make_that_file(name):
    assert encode_header(make_header(name="x"))[3] & 0x08
    assert not encode_header(make_header(name=name))[3] & 0x08


def test_header_is_utf8_even_where_the_name_is_not():
    data = encode_header(make_header(name="\ud800.png"))
    start = data.index(b'{"storage')
    assert "\\ud800.png" in data[start : data.index(b"}", start)].decode("utf-8", "strict")


def test_header_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="does not fit"):
        encode_header(make_header(path="\0" * 12_000))


def test_longest_header_is_within_the_limit():
    data = encode_header(make_header(path="x" * 64_000, name="n" * 300))
    assert 65_000 < len(data) <= HEADER_MAX_BYTES
    assert decode_header(data)[1] == len(data)


@pytest.mark.parametrize("length", [0, 1, 3, 9, 11, 12, 50, 250])
def test_header_cut_short_is_corrupt(length):
    with pytest.raises(CopyCorrupt):
        decode_header(encode_header(make_header())[:length])


def test_header_with_any_damaged_byte_is_corrupt():
    data = encode_header(make_header())
    for position in range(data.rindex(b"thumbnail.png")):  # FNAME, which comes last, is for other programs
        damaged = bytearray(data)
        damaged[position] ^= 0x04
        with pytest.raises(CopyCorrupt):
            decode_header(damaged)


def test_header_of_somebody_elses_gzip_is_not_ours():
    with pytest.raises(CopyCorrupt, match="was not written by this kit"):
        decode_header(gzip.compress(b"hello"))


def test_header_of_no_gzip_is_corrupt():
    with pytest.raises(CopyCorrupt, match="not a gzip file"):
        decode_header(b"<html>" * 100)


def rewritten(**changes):
    """A header whose JSON says something else, with a CRC that fits."""
    document = json.dumps({**dataclasses.asdict(make_header()), **changes}).encode()
    extra = b"CB" + len(document).to_bytes(2, "little") + document + b"CC\x04\x00" + zlib.crc32(document).to_bytes(4, "little")
    return b"\x1f\x8b\x08\x04\0\0\0\0\0\xff" + len(extra).to_bytes(2, "little") + extra


def test_header_with_a_field_of_a_later_release_is_read():
    assert decode_header(rewritten(etag="x"))[0] == make_header()


@pytest.mark.parametrize(
    "changes",
    [{"size": -1}, {"size": "1"}, {"size": True}, {"size": 1.0}, {"name": None}, {"source_id": 5}, {"sha256": []}],
    ids=str,
)
def test_header_with_a_field_of_another_type_is_corrupt(changes):
    with pytest.raises(CopyCorrupt):
        decode_header(rewritten(**changes))


# ---- the encoder -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_bytes", [1_000, 65_536, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 10**9])
def test_encoder_gives_the_same_bytes_however_the_input_is_cut(chunk_bytes):
    mixed = CONTENTS["mixed"]
    assert encode(mixed, chunk_bytes) == encode(mixed, 123_457)


@NO_CLOCK
@given(st.lists(st.binary(max_size=3000), max_size=12))
def test_encoder_gives_back_any_input(chunks):
    encoder = Encoder()
    output = b"".join([*(part for chunk in chunks for part in encoder.feed(chunk)), encoder.finish()])
    assert zlib.decompress(output[:-8], wbits=-15) == b"".join(chunks)


def test_encoder_takes_its_own_copy_of_what_it_is_fed():
    encoder = Encoder()
    buffer = bytearray(b"hello")
    assert encoder.feed(buffer) == []
    buffer[:] = b"XXXXX"
    assert zlib.decompress(encoder.finish()[:-8], wbits=-15) == b"hello"


def test_encoder_stores_what_does_not_compress():
    output = encode(RANDOM)
    assert RANDOM[:65_535] in output
    assert len(output) <= len(RANDOM) + 5 * (len(RANDOM) // 65_535 + 10) + 10


def test_encoder_stores_a_small_block_that_does_not_compress():
    output = encode(RANDOM[:5000])
    assert RANDOM[:5000] in output
    assert len(output) == 5000 + 5 + 2 + 8


def test_encoder_compresses_what_does_compress():
    assert len(encode(TEXT)) < len(TEXT) / 5


def test_encoder_decides_anew_for_each_block():
    mixed = RANDOM[:BLOCK_BYTES] + TEXT[:BLOCK_BYTES] + RANDOM[:BLOCK_BYTES]
    output = encode(mixed)
    assert output.count(RANDOM[:65_535]) == 2
    assert len(output) < 2.2 * BLOCK_BYTES


def test_encoder_judges_a_large_block_by_a_sample():
    """A file that is media almost everywhere is stored without an attempt: what a few zeros would save is not worth the time."""
    block = bytearray(RANDOM[:BLOCK_BYTES])
    block[10_000:15_000] = bytes(5_000)
    assert len(encode(block)) > BLOCK_BYTES


def test_encoder_keeps_no_more_than_a_block_in_memory():
    encoder = Encoder()
    chunk = TEXT[:100_000]
    tracemalloc.start()
    for _ in range(300):
        encoder.feed(chunk)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * BLOCK_BYTES


def test_trailer_of_four_gib_and_more_keeps_the_lower_bits_of_the_size():
    assert encode_trailer(0xDEADBEEF, 2**32 + 5) == encode_trailer(0xDEADBEEF, 5) == b"\xef\xbe\xad\xde\x05\0\0\0"
    assert encode_trailer(0, 2**32 - 1)[4:] == b"\xff\xff\xff\xff"


# ---- the decoder -------------------------------------------------------------------------------------------------------------


def test_decoder_gives_back_the_bytes_the_size_and_the_hash(content):
    decoder = Decoder([copy_of(content)])
    assert b"".join(decoder) == content
    assert (decoder.size, decoder.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert decoder.header == make_header(content)


@pytest.mark.parametrize("chunk_bytes", [1, 7, 300])
def test_decoder_takes_its_input_in_any_pieces(chunk_bytes):
    copy = copy_of(CONTENTS["65535 random"])
    pieces = (copy[start : start + chunk_bytes] for start in range(0, len(copy), chunk_bytes))
    assert b"".join(Decoder(pieces)) == CONTENTS["65535 random"]


def test_decoder_reads_a_copy_whose_header_fills_its_prefix():
    shortest = len(encode_header(make_header(TEXT, path="", name="n" * 255)))
    header = encode_header(make_header(TEXT, path="x" * (HEADER_MAX_BYTES - shortest), name="n" * 255))
    assert len(header) == HEADER_MAX_BYTES
    assert b"".join(Decoder([header, encode(TEXT)])) == TEXT


def test_decoder_never_takes_a_damaged_bit_for_other_bytes():
    content = b"hello, hello, hello " * 20
    copy = copy_of(content)
    unnoticed = 0
    for bit in range(8 * len(encode_header(make_header())), 8 * len(copy)):
        damaged = bytearray(copy)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            assert decode(bytes(damaged)) == content
        except CopyCorrupt:
            continue
        unnoticed += 1
    assert unnoticed <= 16  # bits that fill up to the next byte mean nothing to deflate; the stored hash covers them


@pytest.mark.parametrize("name", ["text", "random"])
def test_decoder_notices_a_damaged_bit_in_a_large_body(name):
    damaged = bytearray(copy_of(CONTENTS[name]))
    damaged[len(damaged) // 2] ^= 0x01
    with pytest.raises(CopyCorrupt):
        decode(bytes(damaged))


@pytest.mark.parametrize("name", ["empty", "tiny", "text", "random"])
def test_decoder_notices_a_copy_that_is_cut_short_anywhere(name):
    copy = copy_of(CONTENTS[name])
    body = len(encode_header(make_header()))
    for length in {0, 1, body - 1, body, body + 1, (body + len(copy)) // 2, *range(len(copy) - 12, len(copy))}:
        with pytest.raises(CopyCorrupt):
            decode(copy[:length])


@pytest.mark.parametrize("garbage", [b"\0", b"\0" * 8, b"garbage" * 1000])
@pytest.mark.parametrize("name", ["empty", "text"])
def test_decoder_notices_what_comes_after_the_trailer(name, garbage):
    with pytest.raises(CopyCorrupt, match="goes on after its trailer"):
        decode(copy_of(CONTENTS[name]) + garbage)


def test_decoder_notices_a_second_member():
    with pytest.raises(CopyCorrupt, match="goes on after its trailer"):
        decode(copy_of(b"hello") + copy_of(b"hello"))


def test_decoder_notices_a_header_of_other_bytes():
    swapped = encode_header(make_header(b"jello")) + encode(b"hello")
    with pytest.raises(CopyCorrupt, match=f"inflates to SHA-256 {hashlib.sha256(b'hello').hexdigest()}, but its header says"):
        decode(swapped)


def test_decoder_notices_fewer_bytes_than_the_header_says():
    with pytest.raises(CopyCorrupt, match="holds 5 bytes, but its header says 6"):
        decode(encode_header(make_header(b"hello!")) + encode(b"hello"))


def test_decoder_names_the_trailer_that_it_expects():
    copy = copy_of(b"hello")
    with pytest.raises(CopyCorrupt, match=f"its trailer is {'00' * 8}, but its bytes give {copy[-8:].hex()}"):
        decode(copy[:-8] + bytes(8))


def test_decoder_gives_chunks_of_bounded_size_whatever_the_stream_claims():
    copy = copy_of(bytes(20_000_000))
    assert len(copy) < 200_000
    assert max(map(len, Decoder([copy]))) <= CHUNK_MAX_BYTES


def test_decoder_stops_a_bomb_at_the_size_that_the_header_says():
    compressor = zlib.compressobj(9, wbits=-15)
    bomb = compressor.compress(bytes(50_000_000)) + compressor.flush()
    seen = 0
    with pytest.raises(CopyCorrupt, match="holds more than the 5 bytes"):  # noqa: PT012 - what came out before is the point
        for chunk in Decoder([encode_header(make_header(b"hello")) + bomb]):
            seen += len(chunk)
    assert seen == 0


def test_decoder_ends_on_a_stream_without_end():
    endless = encode_header(make_header(b"hello")) + b"\0\0\0\xff\xff" * 200_000
    with pytest.raises(CopyCorrupt, match="cut short"):
        decode(endless)


def test_decoder_keeps_memory_flat():
    copy = copy_of(bytes(50_000_000))
    tracemalloc.start()
    for _ in Decoder([copy]):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * CHUNK_MAX_BYTES
