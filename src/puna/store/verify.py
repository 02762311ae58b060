"""Reading everything in a store again, and saying what is not as it should be."""

from collections import defaultdict
from collections.abc import Callable
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


def verify_library(library: Library, report: Report) -> Verification:
    """Hash every blob, and compare the manifests with them.

    Raises:
        StoreError: the store cannot be read.
    """
    stored = list(library.manifests)
    damage: list[Damage] = []
    users: dict[Digest, list[ModelName]] = defaultdict(list)
    sizes: dict[Digest, int] = {}
    for manifest in stored:
        try:
            layers = decode_manifest(manifest.content).blobs
        except StoreError as error:
            what = f"the manifest of '{manifest.name}' is not valid: {error}"
            damage.append(Damage(what, (manifest.name,)))
            continue
        for layer in layers:
            sizes[layer.content] = layer.size
            users[layer.content].append(manifest.name)
    present = {digest: library.blobs.size(digest) or 0 for digest in library.blobs}
    meter = _Meter(report, sum(present.values()))
    for digest in sorted({*present, *users}, key=str):
        fault = _fault(library, digest, sizes.get(digest), meter)
        if fault:
            damage.append(Damage(f"blob {digest} {fault}", tuple(dict.fromkeys(users[digest])), digest))
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


def _fault(library: Library, digest: Digest, expected: int | None, seen: Callable[[int], None]) -> str:
    """What is wrong with a blob; empty when nothing is."""
    size = library.blobs.size(digest)
    if size is None:
        return "is missing"
    if expected not in (None, size):
        return f"is {size} bytes long instead of {expected}"
    try:
        return "" if library.blobs.verify(digest, seen) else "does not have the content that its name says"
    except StoreError as error:
        return f"cannot be read: {error}"
