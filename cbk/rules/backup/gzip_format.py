"""The file format of a copy: one gzip member (RFC 1952) whose header says what the copy is, around a deflate stream (RFC 1951).

Any gunzip reads it. What this module adds to the format's own means:

- FEXTRA holds a subfield `CB`: a JSON object in UTF-8 with the fields of `CopyHeader`. It is written before the size is known and
  again, over itself, after; so `size` is padded with spaces, and a header's length does not depend on it.
- For a restore with no more than a shell, that object also says the names that the file may be restored under
  (`layout.restore_names`), as `restore_as` and `restore_else`: all but ASCII letters, digits and `_.-~/` is spelt %XX, so that any
  tool can cut them out. Copies without them, of an earlier kit, are read all the same.
- What later releases added follows after the size: how the hash was proved (`proof`), the MD5 (`md5`), and what the object was
  besides its bytes (Content-Type and the like) as `properties`, if any is known.
- FEXTRA's other subfield, `CC`, is the CRC-32 of that JSON, little-endian: a damaged name is noticed. (FHCRC of the RFC would be
  the place, but gzip before 1.9 refuses files that have it.)
- FNAME holds the original name as UTF-8 (the RFC says Latin-1; `gzip` and `file` pass bytes through).
- MTIME is 0 and OS 255 (unknown): the same bytes of the same version give the same file on the same kind of machine.
- The deflate stream is made of blocks of 256 KiB of input that refer to nothing before them. Each is either compressed (isal,
  level 2) or, where that gains nothing, stored; a probe of 16 KiB spares media files the attempt.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import struct
from collections.abc import Iterable, Iterator
from typing import Any, Protocol
from urllib.parse import quote

from isal import igzip_lib, isal_zlib

from cbk.errors import CopyCorrupt
from cbk.model import CopyHeader, Proof
from cbk.rules.backup.object_properties import properties_from_fields, properties_to_fields
from cbk.rules.intake.layout import restore_names

HEADER_MAX_BYTES = 10 + 2 + 65_535 + 256  # fixed part, XLEN, its largest value, FNAME with its NUL
BLOCK_BYTES = 256 * 1024
CHUNK_MAX_BYTES = 256 * 1024  # the most that a decoder gives at once, whatever the stream claims to be

_FIXED = struct.pack("<4BI2B", 0x1F, 0x8B, 8, 0x04, 0, 0, 255)  # magic, deflate, FEXTRA, MTIME, XFL, OS
_FNAME_FLAG = 0x08
_FLAGS_AT = 3
_FNAME_MAX_BYTES = 255
_SUBFIELD_ID = b"CB"
_SUBFIELD = struct.Struct("<2sH")
_CHECK = struct.Struct("<2sHI")  # a whole subfield
_CHECK_ID = b"CC"
_TRAILER = struct.Struct("<2I")  # CRC-32 and ISIZE
TRAILER_BYTES = _TRAILER.size
_DOCUMENT_MAX_BYTES = 65_535 - _SUBFIELD.size - _CHECK.size
_FIELDS = tuple(field.name for field in dataclasses.fields(CopyHeader) if field.name != "properties")
_LATER_FIELDS = {"proof": Proof.SHA256.value, "md5": ""}
UNTOLD_SHA256, UNTOLD_MD5 = "0" * 64, "0" * 32  # in a header that is written before they are known: `IncomingCopy.seal`
_SIZE_WIDTH = 20  # digits; 2**63 has 19
SIZE_MAX_BYTES = 10**_SIZE_WIDTH - 1  # that a header can name
_LEVEL = 2
_PROBE_ABOVE_BYTES = 64 * 1024  # smaller blocks are compressed as quickly as probed
_PROBE_SLICES = 4
_PROBE_SLICE_BYTES = 4 * 1024
_PROBE_GAIN = 0.97
_STORED_MAX_BYTES = 65_535  # LEN of a stored block has 16 bits (RFC 1951 3.2.4)
_STORED_BLOCK = struct.Struct("<BHH")  # BFINAL 0 and BTYPE 00, padded to a byte; LEN; NLEN
_LAST_BLOCK = b"\x03\x00"  # an empty block with BFINAL set, in fixed Huffman codes
_NOT_OURS = "its header is damaged, or was not written by this kit"
_NOT_IN_NAME = re.compile(r"[\x00-\x1f\x7f-\x9f/\\]")


class _Inflater(Protocol):
    eof: bool
    needs_input: bool
    unused_data: bytes

    def decompress(self, data: bytes | memoryview, max_length: int = -1, /) -> bytes: ...


# ---- the header --------------------------------------------------------------------------------------------------------------


def encode_header(header: CopyHeader) -> bytes:
    """The bytes that a copy begins with; as many for any `size`. Raises ValueError where they do not fit in the format."""
    document = _document(header)
    name = _file_name(header.name)
    fixed = bytearray(_FIXED)
    fixed[_FLAGS_AT] |= _FNAME_FLAG if name else 0
    extra = _extra(document)
    return b"".join((fixed, struct.pack("<H", len(extra)), extra, name + b"\0" if name else b""))


def decode_header(prefix: bytes | memoryview) -> tuple[CopyHeader, int]:
    """What a copy says about itself, and the length of its header in bytes.

    `prefix` is the first HEADER_MAX_BYTES of the copy, or all of it where it is shorter. Raises CopyCorrupt where this is no gzip
    file, or not one of ours.
    """
    data = bytes(prefix[:HEADER_MAX_BYTES])
    if data[:_FLAGS_AT] != _FIXED[:_FLAGS_AT]:
        raise CopyCorrupt("is not a gzip file")
    extra_at = len(_FIXED) + 2
    fixed = bytearray(data[: len(_FIXED)].ljust(extra_at))
    named = bool(fixed[_FLAGS_AT] & _FNAME_FLAG)
    fixed[_FLAGS_AT] &= ~_FNAME_FLAG
    if fixed[: len(_FIXED)] != _FIXED:
        raise CopyCorrupt(_NOT_OURS)
    end = extra_at + int.from_bytes(data[len(_FIXED) : extra_at], "little")
    header = _header_from(_checked_document(data[extra_at:end]))
    if named:
        end = data.find(b"\0", end) + 1
    if not 0 < end <= len(data):
        raise CopyCorrupt(_NOT_OURS)
    return header, end


def _document(header: CopyHeader) -> bytes:
    fields = {name: getattr(header, name) for name in _FIELDS if name != "size" and name not in _LATER_FIELDS}
    fields |= zip(("restore_as", "restore_else"), map(quote, restore_names(header.key, header.storage)), strict=True)
    text = _json(fields)
    # The shell script on the disk, even an earlier release's, takes any text behind the size, and none between what precedes it.
    later: dict[str, Any] = {name: getattr(header, name) for name in _LATER_FIELDS}
    if header.properties is not None:
        later["properties"] = properties_to_fields(header.properties)
    whole = f'{text[:-1]},"size":{header.size:<{_SIZE_WIDTH}},{_json(later)[1:]}'
    document = whole.encode("utf-8", "backslashreplace")  # makes \udXXX of a lone surrogate, which is JSON
    if len(document) > _DOCUMENT_MAX_BYTES or header.size > SIZE_MAX_BYTES:
        raise ValueError(f"a header of {len(document)} bytes does not fit in a gzip file")
    return document


def _json(fields: dict[str, Any]) -> str:
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def _file_name(name: str) -> bytes:
    """`name` for FNAME: no control character, no slash; empty where `gzip -N` could not give it to a file."""
    safe = _NOT_IN_NAME.sub("_", name).encode("utf-8", "replace")[:_FNAME_MAX_BYTES]
    return b"" if safe in {b".", b".."} else safe


def _extra(document: bytes) -> bytes:
    check = _CHECK.pack(_CHECK_ID, _CHECK.size - _SUBFIELD.size, isal_zlib.crc32(document))
    return _SUBFIELD.pack(_SUBFIELD_ID, len(document)) + document + check


def _checked_document(extra: bytes) -> bytes:
    document = extra[_SUBFIELD.size : -_CHECK.size]
    if extra != _extra(document):
        raise CopyCorrupt(_NOT_OURS)
    return document


def _header_from(document: bytes) -> CopyHeader:
    try:
        fields = json.loads(document)
        # Fields that a later release adds are none of our business; what an earlier one did not have is what it meant.
        known = {name: fields.get(name, _LATER_FIELDS[name]) if name in _LATER_FIELDS else fields[name] for name in _FIELDS}
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise CopyCorrupt(_NOT_OURS) from exc
    if not _well_typed(known):
        raise CopyCorrupt(_NOT_OURS)
    proof = Proof(known.pop("proof"))
    return CopyHeader(**known, proof=proof, properties=properties_from_fields(fields.get("properties")))


def _well_typed(fields: dict[str, Any]) -> bool:
    texts = ("storage", "path", "name", "sha256", "md5")
    numbers = ("version", "size")
    optional = ("content_type", "source_id")
    return (
        all(isinstance(fields[name], str) for name in texts)
        and all(type(fields[name]) is int and fields[name] >= 0 for name in numbers)
        and all(fields[name] is None or isinstance(fields[name], str) for name in optional)
        and fields["proof"] in list(Proof)
    )


# ---- writing -----------------------------------------------------------------------------------------------------------------


class Encoder:
    """Turns an object's bytes into what follows the header, in one pass that also counts them.

    It does not hash them: whoever reads the copy back does, and the trailer tells then whether the disk or the object is to blame.
    How the input is cut into chunks makes no difference to the output. Memory: one block.
    """

    def __init__(self) -> None:
        self.bytes_in = 0
        self._crc32 = 0
        self._block = bytearray()

    def feed(self, data: bytes | bytearray | memoryview) -> list[bytes]:
        """Take the next bytes of the object; give the output of the blocks that they complete. `data` may be reused afterwards."""
        source = memoryview(data)
        self.bytes_in += len(source)
        output = []
        while len(self._block) + len(source) >= BLOCK_BYTES:
            missing = BLOCK_BYTES - len(self._block)
            part, source = source[:missing], source[missing:]
            if self._block:
                self._block += part
                output.append(self._encode_pending())
            else:
                output.append(self._encode(part))  # as it is, without a copy
        self._block += source
        return output

    def finish(self) -> bytes:
        """The rest of the output: the last block, the end of the deflate stream and the trailer."""
        last = self._encode_pending() if self._block else b""
        return last + _LAST_BLOCK + encode_trailer(self._crc32, self.bytes_in)

    def _encode_pending(self) -> bytes:
        with memoryview(self._block) as view:
            encoded = self._encode(view)
        self._block.clear()
        return encoded

    def _encode(self, block: memoryview) -> bytes:
        self._crc32 = isal_zlib.crc32(block, self._crc32)
        return _deflate(block)


def encode_trailer(crc32: int, size: int) -> bytes:
    """The last eight bytes of a gzip file; of a size of 4 GiB and more only the lower 32 bits are in it (RFC 1952 2.3.1)."""
    return _TRAILER.pack(crc32, size & 0xFFFF_FFFF)


def ends_with_size(trailer: bytes, size: int) -> bool:
    """Whether these last bytes of a gzip file are those of one that inflates to so many bytes, as far as its ISIZE tells."""
    return len(trailer) == _TRAILER.size and _TRAILER.unpack(trailer)[1] == size & 0xFFFF_FFFF


def _deflate(block: memoryview) -> bytes:
    """`block` as deflate blocks that end on a byte and are not the last: compressed, or stored where that is no larger."""
    if len(block) > _PROBE_ABOVE_BYTES and not _looks_compressible(block):
        return _store(block)
    compressor = isal_zlib.compressobj(_LEVEL, wbits=-15)
    compressed: bytes = compressor.compress(block) + compressor.flush(isal_zlib.Z_SYNC_FLUSH)
    stored_size = len(block) + _STORED_BLOCK.size * -(-len(block) // _STORED_MAX_BYTES)
    return compressed if len(compressed) < stored_size else _store(block)


def _looks_compressible(block: memoryview) -> bool:
    step = len(block) // _PROBE_SLICES
    sample = b"".join(block[start : start + _PROBE_SLICE_BYTES] for start in range(0, step * _PROBE_SLICES, step))
    return len(isal_zlib.compress(sample, 1, wbits=-15)) < len(sample) * _PROBE_GAIN


def _store(block: memoryview) -> bytes:
    parts: list[bytes | memoryview] = []
    for start in range(0, len(block), _STORED_MAX_BYTES):
        part = block[start : start + _STORED_MAX_BYTES]
        parts += (_STORED_BLOCK.pack(0, len(part), len(part) ^ 0xFFFF), part)
    return b"".join(parts)


# ---- reading -----------------------------------------------------------------------------------------------------------------


class Decoder:
    """Inflates one copy and verifies it against its own header and trailer.

    `chunks` are the copy's bytes from the first on. Iterate once: each chunk is at most CHUNK_MAX_BYTES, and the iteration ends
    with CopyCorrupt where anything is wrong, so what came out counts only once it has ended. Memory is flat for any input.
    Where it `compares` not, whether `sha256` is the header's is for the caller to say.
    """

    def __init__(self, chunks: Iterable[bytes], *, compares: bool = True) -> None:
        self._chunks = iter(chunks)
        self._compares = compares
        prefix = self._read(HEADER_MAX_BYTES)
        self.header, length = decode_header(prefix)
        self.size = 0
        self._body = prefix[length:]
        self._sha256 = hashlib.sha256()
        self._crc32 = 0
        self._inflater: _Inflater = igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_DEFLATE)

    @property
    def sha256(self) -> str:
        """The hash, in hex, of what was inflated so far."""
        return self._sha256.hexdigest()

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._inflated():
            self.size += len(chunk)
            if self.size > self.header.size:
                raise CopyCorrupt(f"holds more than the {self.header.size} bytes that its header says")
            self._sha256.update(chunk)
            self._crc32 = isal_zlib.crc32(chunk, self._crc32)
            yield chunk
        self._check_trailer()
        self._check_header()

    def _read(self, at_least: int) -> bytes:
        """The next bytes of the copy: `at_least` so many, or all that are left."""
        parts: list[bytes] = []
        count = 0
        while count < at_least and (part := next(self._chunks, None)) is not None:
            parts.append(part)
            count += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _inflated(self) -> Iterator[bytes]:
        data = self._body or self._read(1)
        while data:
            yield from self._inflate(data)
            if self._inflater.eof:
                return
            data = self._read(1)
        raise CopyCorrupt(f"is cut short: it ends after {self.size} of {self.header.size} bytes")

    def _inflate(self, data: bytes) -> Iterator[bytes]:
        inflater = self._inflater
        while True:
            try:
                chunk = inflater.decompress(data, CHUNK_MAX_BYTES)
            except igzip_lib.error as exc:  # type: ignore[misc] # the stub calls the class an instance
                raise CopyCorrupt(f"does not inflate after {self.size} bytes") from exc
            if chunk:
                yield chunk
            if inflater.eof or inflater.needs_input:
                return
            data = b""

    def _check_trailer(self) -> None:
        rest = self._inflater.unused_data
        while len(rest) <= _TRAILER.size and (more := self._read(1)):
            rest += more
        if len(rest) != _TRAILER.size:
            wrong = "is cut short in its trailer" if len(rest) < _TRAILER.size else "goes on after its trailer"
            raise CopyCorrupt(wrong)
        if rest != (expected := encode_trailer(self._crc32, self.size)):
            raise CopyCorrupt(f"its trailer is {rest.hex()}, but its bytes give {expected.hex()}")

    def _check_header(self) -> None:
        if self.size != self.header.size:
            raise CopyCorrupt(f"holds {self.size} bytes, but its header says {self.header.size}")
        if self._compares and self.sha256 != self.header.sha256:
            raise CopyCorrupt(f"inflates to SHA-256 {self.sha256}, but its header says {self.header.sha256}")
