"""What a page of accepted rows adds to the catalog: new files with their places, new versions, and rows that contradict one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime

from cbk.model import AcceptedRow, DeclinedRow, Proof
from cbk.rules.backup.hashes import Hashes, proof_of, shown_hash, stronger
from cbk.rules.backup.links import link_digest, link_expires_at
from cbk.rules.intake.layout import place_key, places, variant_of

FileName = tuple[str, str]  # (storage, key)
Content = tuple[str, str, int, str]  # (storage, key, number, SHA-256)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownVersion:
    """What the catalog knows of one version: its hashes ("" where they are not known), the Ids of its live rows, whether
    `v<N>.gzip` is its copy's name, whether deletes cover all of its rows, and whether it ever had a copy.

    One that has no SHA-256 yet has no copy either: it is what its live rows say. There is one of each number at the most.
    """

    number: int
    sha256: str
    md5: str = ""
    proof: Proof = Proof.SHA256
    live_rows: frozenset[str] = frozenset()
    has_plain_name: bool = True
    deleted: bool = False
    was_stored: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NewFile:
    """A file to add, with the folder that its copies will have."""

    storage: str
    key: str
    bucket: str
    place: str
    place_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NewVersion:
    """A version to add to the file (storage, key)."""

    storage: str
    key: str
    number: int
    source_id: str
    sha256: str
    md5: str
    proof: Proof
    content_type: str | None
    link_digest: str
    link_expires_at: datetime | None
    variant: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BroughtRow:
    """A row, and the SHA-256 of the version of its number that it brings: "" for the one that has none yet."""

    row: AcceptedRow
    sha256: str

    @property
    def content(self) -> Content:
        """Which version that is."""
        return self.row.storage, self.row.key, self.row.number, self.sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class NewClaim:
    """What rows say of a known version that they did not say before: `content` is which version it was until now."""

    content: Content
    sha256: str
    md5: str
    proof: Proof


@dataclass(frozen=True, slots=True, kw_only=True)
class Contradiction:
    """A row that brings a known Version with another Hash, while rows of that version (`live_rows`) are there."""

    row: AcceptedRow
    declined: DeclinedRow
    live_rows: frozenset[str]


@dataclass(slots=True, kw_only=True)
class IntakePlan:
    """What to write: `rows` are those that bring a version, new or known; `contradictions` those that cannot be true.

    `claims` are to be written before rows are attached to versions, by what those are afterwards.
    """

    files: list[NewFile] = field(default_factory=list)
    versions: list[NewVersion] = field(default_factory=list)
    claims: list[NewClaim] = field(default_factory=list)
    rows: list[BroughtRow] = field(default_factory=list)
    contradictions: list[Contradiction] = field(default_factory=list)


def plan_intake(
    rows: Iterable[AcceptedRow],
    *,
    known: Mapping[FileName, Iterable[KnownVersion]],
    taken: AbstractSet[str],
    bucket_of: Callable[[str], str],
) -> IntakePlan:
    """What `rows` add to what is `known`.

    `known` has an entry for each (storage, key) of the rows that is a file already, with its versions; `taken` holds those place
    keys of the rows' candidate places that belong to other files. First come, first served, in the order of the rows. The same
    Version with another Hash is another version, if no row of the first one is there any more; else it contradicts it. Only what
    can be compared is: a row without a Hash contradicts nothing.
    """
    plan = IntakePlan()
    versions: dict[FileName, dict[int, list[_Content]]] = {}
    for name, listed in known.items():
        numbers = versions.setdefault(name, {})
        for version in listed:
            numbers.setdefault(version.number, []).append(_Content(version))
    brought: list[tuple[AcceptedRow, _Content]] = []
    occupied = set(taken)
    for row in rows:
        name = (row.storage, row.key)
        if name not in versions:
            versions[name] = {}
            plan.files.append(_place_file(row, bucket_of(row.storage), occupied))
        same_number = versions[name].setdefault(row.number, [])
        content = _content_of(row, same_number)
        other = next((each for each in same_number if each is not content and each.others(row)), None)
        if other is not None:
            plan.contradictions.append(_contradiction(row, other))
            continue
        if content is None:
            content = _Content(KnownVersion(number=row.number, sha256=row.sha256, md5=row.md5), first=row)
            content.has_plain_name = not any(each.has_plain_name for each in same_number)
            same_number.append(content)
        content.take(row)
        brought.append((row, content))
    created = {id(content): content for _, content in brought if content.first is not None}
    plan.versions = [content.as_new() for content in created.values()]
    plan.rows = [BroughtRow(row=row, sha256=content.sha256) for row, content in brought]
    claims = {id(content): claim for row, content in brought if (claim := content.new_claim(row))}
    plan.claims = list(claims.values())
    return plan


class _Content:
    """One version of a file while rows are taken in: known so far, or new, brought by the row `first`."""

    def __init__(self, known: KnownVersion, first: AcceptedRow | None = None) -> None:
        self.known = known
        self.first = first
        self.sha256, self.md5, self.proof = known.sha256, known.md5, known.proof
        self.live_rows = set(known.live_rows)
        self.has_plain_name = known.has_plain_name

    def others(self, row: AcceptedRow) -> set[str]:
        """Its live rows but for this one."""
        return self.live_rows - {row.source_id}

    def take(self, row: AcceptedRow) -> None:
        """Its row is this one as well."""
        if not self.sha256 or self.first is not None:
            # It has no bytes: it is what its rows say, and where this is the only one, what this one says.
            alone = not self.others(row)
            self.sha256 = row.sha256 or self.sha256
            self.md5 = row.md5 if alone else row.md5 or self.md5
            self.proof = proof_of(Hashes(sha256=self.sha256, md5=self.md5))
        elif (row.sha256 and row.sha256 == self.sha256) or (row.md5 and row.md5 == self.md5):
            self.proof = stronger(self.proof, proof_of(Hashes(sha256=row.sha256, md5=row.md5)))
        self.live_rows.add(row.source_id)
        self.has_plain_name = self.has_plain_name or self.first is None

    def as_new(self) -> NewVersion:
        """The version to add."""
        assert self.first is not None
        row = self.first
        return NewVersion(
            storage=row.storage,
            key=row.key,
            number=row.number,
            source_id=row.source_id,
            sha256=self.sha256,
            md5=self.md5,
            proof=self.proof,
            content_type=row.content_type,
            link_digest=link_digest(row.link),
            link_expires_at=link_expires_at(row.link),
            variant="" if self.has_plain_name else variant_of(self.sha256),
        )

    def new_claim(self, row: AcceptedRow) -> NewClaim | None:
        """What its rows say now, if that is something else than was known of it."""
        known = self.known
        if self.first is not None or (self.sha256, self.md5, self.proof) == (known.sha256, known.md5, known.proof):
            return None
        content = (row.storage, row.key, row.number, known.sha256)
        return NewClaim(content=content, sha256=self.sha256, md5=self.md5, proof=self.proof)


def _content_of(row: AcceptedRow, same_number: list[_Content]) -> _Content | None:
    """Which of these versions a row brings; None: another one, or one that it contradicts."""
    if row.sha256 or row.md5:
        for each in same_number:
            if (row.sha256 and each.sha256 == row.sha256) or (row.md5 and each.md5 == row.md5 and not row.sha256):
                return each
        unknown = next((each for each in same_number if not each.sha256), None)
        contradicts = unknown is not None and row.md5 and unknown.md5 and unknown.others(row)
        return None if contradicts else unknown
    # It says nothing that could be compared: it speaks of the version that other rows speak of, or of the copy that is here. What
    # was deleted is not taken for what was written after it.
    live = next((each for each in same_number if each.others(row)), None)
    if live is not None:
        return live
    kept = [each for each in same_number if not each.known.deleted and (each.known.was_stored or each.first is not None)]
    return kept[-1] if kept else next((each for each in same_number if not each.sha256), None)


def candidate_place_keys(rows: Iterable[AcceptedRow], bucket_of: Callable[[str], str]) -> set[str]:
    """The place keys that `plan_intake` may want for these rows: which of them are taken has to be known first."""
    names = {(row.storage, row.key) for row in rows}
    return {place_key(place) for storage, key in names for place in places(bucket_of(storage), key, storage)}


def _place_file(row: AcceptedRow, bucket: str, occupied: set[str]) -> NewFile:
    candidates = places(bucket, row.key, row.storage)
    # The last candidate carries the whole SHA-256 of the key and cannot be another file's.
    place = next((place for place in candidates if place_key(place) not in occupied), candidates[-1])
    occupied.add(place_key(place))
    return NewFile(storage=row.storage, key=row.key, bucket=bucket, place=place, place_key=place_key(place))


def _contradiction(row: AcceptedRow, other: _Content) -> Contradiction:
    live_rows = frozenset(other.others(row))
    known, said = shown_hash(other.sha256, other.md5), shown_hash(row.sha256, row.md5)
    incomparable = "" if row.sha256 or other.md5 or not row.md5 else ", which it cannot be compared with"
    declined = DeclinedRow(
        source_id=row.source_id,
        storage=row.storage,
        key=row.key,
        version=str(row.number),
        reason=(
            f"version {row.number} is known with another Hash ({known}, from row {min(live_rows)}), "
            f"not {said}{incomparable}: new content needs a higher Version"
        ),
    )
    return Contradiction(row=row, declined=declined, live_rows=live_rows)
