"""Reading everything in a store again, and saying what is not as it should be."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from puna.errors import StoreError
from puna.progress import Progress, Report
from puna.store.digest import Digest
from puna.store.library import Library
from puna.store.manifests import decode_manifest
from puna.store.name import ModelName


@dataclass(frozen=True, slots=True)
class Damage:
    """Something that is wrong.

    Attributes:
        what: a sentence about it.
        models: the models that cannot be used for it; none for a blob that no model uses.
        blob: the blob, if it is one.
    """

    what: str
    models: tuple[ModelName, ...]
    blob: Digest | None = None


@dataclass(frozen=True, slots=True)
class Verification:
    """What was looked at: models, blobs and their bytes; and what is wrong."""

    models: int
    blobs: int
    size: int
    damage: tuple[Damage, ...]


def verify_library(library: Library, report: Report, *, again: bool = False) -> Verification:
    """Hash every blob, and compare the manifests with them.

    Args:
        again: pass over blobs that were found right before and have not changed since.

    Raises:
        StoreError: the store cannot be read.
    """
    stored = list(library.manifests)
    damage: list[Damage] = []
    users: dict[Digest, list[tuple[ModelName, int]]] = defaultdict(list)
    for manifest in stored:
        try:
            for layer in decode_manifest(manifest.content).blobs:
                users[layer.content].append((manifest.name, layer.size))
        except StoreError as error:
            what = f"the manifest of '{manifest.name}' is not valid: {error}"
            damage.append(Damage(what, (manifest.name,)))
    present = {digest: library.blobs.size(digest) or 0 for digest in library.blobs}
    meter = _Meter(report, sum(present.values()))
    for digest in sorted({*present, *users}, key=str):
        trusted = again and library.blobs.verified(digest)
        damage += _damage(library, digest, users[digest], None if trusted else meter)
        meter.before += present.get(digest, 0)
    return Verification(len(stored), len(present), meter.total, tuple(damage))


@dataclass(slots=True)
class _Meter:
    """Tells how far the hashing is, over all blobs."""

    report: Report
    total: int
    before: int = 0

    def __call__(self, read: int) -> None:
        self.report(Progress("verifying sha256 digest", self.before + read, self.total))


def _damage(
    library: Library, digest: Digest, users: list[tuple[ModelName, int]], meter: "_Meter | None"
) -> Iterator[Damage]:
    """What is wrong with a blob: with its size for some of its users, or with itself for all of them."""
    size = library.blobs.size(digest)
    wrong = {name: expected for name, expected in users if size not in (None, expected)}
    for expected in sorted({*wrong.values()}):
        names = tuple(name for name in wrong if wrong[name] == expected)
        yield Damage(f"blob {digest} is {size} bytes long instead of {expected}", names, digest)
    fault = "is missing" if size is None else _fault(library, digest, meter)
    others = tuple(dict.fromkeys(name for name, _ in users if name not in wrong))
    if fault and (others or not users):
        yield Damage(f"blob {digest} {fault}", others, digest)


def _fault(library: Library, digest: Digest, meter: "_Meter | None") -> str:
    """What is wrong with the content of a blob; empty when nothing is, or it need not be read."""
    try:
        right = meter is None or library.blobs.verify(digest, meter)
    except StoreError as error:
        return f"cannot be read: {error}"
    return "" if right else "does not have the content that its name says"
