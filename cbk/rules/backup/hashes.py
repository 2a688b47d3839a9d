"""What proves that bytes are the application's: comparing only what can be compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cbk.errors import HashMismatch
from cbk.model import AcceptedRow, Proof, Version


@dataclass(frozen=True, slots=True, kw_only=True)
class Hashes:
    """An object's hashes in hex, "" where they are not known."""

    sha256: str = ""
    md5: str = ""


def proof_of(hashes: Hashes) -> Proof:
    """What a row that says these hashes proves."""
    if hashes.sha256:
        return Proof.SHA256
    return Proof.MD5 if hashes.md5 else Proof.FIRST_SEEN


def stronger(one: Proof, other: Proof) -> Proof:
    """The one that proves more."""
    return max(one, other, key=lambda proof: proof.strength)


def differ(one: Hashes, other: Hashes) -> bool:
    """Whether they are of other bytes, as far as that can be compared."""
    return _unequal(one.sha256, other.sha256) or _unequal(one.md5, other.md5)


def agree(one: Hashes, other: Hashes) -> bool:
    """Whether they are of the same bytes, as far as that can be compared; where nothing can be, they do not."""
    return not differ(one, other) and bool((one.sha256 and other.sha256) or (one.md5 and other.md5))


def expected_hashes(version: Version, row: AcceptedRow) -> Hashes:
    """What the object of this row has to have: what the catalog knows of the version, and what the row says now."""
    return Hashes(sha256=version.sha256 or row.sha256, md5=version.md5 or row.md5)


def mismatch_of(version: Version, expected: Hashes, came: Hashes) -> HashMismatch | None:
    """Why bytes with the hashes that `came` are not those of the version; None where they are, as far as that can be compared."""
    if not differ(expected, came):
        return None
    by_md5 = _unequal(expected.md5, came.md5) and (version.proof is Proof.MD5 or not _unequal(expected.sha256, came.sha256))
    name, wanted, found = ("MD5", expected.md5, came.md5) if by_md5 else ("SHA-256", expected.sha256, came.sha256)
    told = "when it was first seen it was" if version.proof is Proof.FIRST_SEEN and version.sha256 else "its row says"
    message = f"the object has {name} {found}, but {told} {wanted}"
    return HashMismatch(message, expected=wanted, actual=came.sha256, actual_md5=came.md5)


def describe_proofs(by_proof: Mapping[Proof, int]) -> str:
    """What proves that so many copies are the application's bytes, after "proved"."""
    line = f"{by_proof[Proof.SHA256]} by SHA-256, {by_proof[Proof.MD5]} by MD5"
    if by_proof[Proof.FIRST_SEEN]:
        line += f", and {by_proof[Proof.FIRST_SEEN]} not at all: as first seen, since their rows have no Hash"
    return line


def shown_hash(sha256: str, md5: str) -> str:
    """A hash as a reason names it."""
    if sha256:
        return sha256[:12]
    return f"MD5 {md5[:12]}" if md5 else "none"


def _unequal(one: str, other: str) -> bool:
    return bool(one and other and one != other)
