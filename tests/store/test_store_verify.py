"""Reading everything in a store again."""

import os

from tests.store.filled import CONFIG, DAMAGED, add, digest_of, manifest_path, publish, write_manifest

from puna.progress import Progress
from puna.store.library import Library
from puna.store.name import parse_name
from puna.store.verify import Verification, verify_library


def verify(library: Library) -> Verification:
    return verify_library(library, lambda _: None)


def found(library: Library) -> list[tuple[str, list[str]]]:
    """What is wrong, and the models it hits."""
    return [(damage.what, [*map(str, damage.models)]) for damage in verify(library).damage]


def test_a_good_store(library: Library) -> None:
    publish(library, "m", b"weights")
    publish(library, "n", b"weights", b"more")
    add(library, b"unused")
    told: list[Progress] = []
    result = verify_library(library, told.append)
    size = len(b"weights" + b"more" + b"unused" + CONFIG)
    assert result == Verification(2, 4, size, ())
    assert told[-1] == Progress("verifying sha256 digest", size, size)
    assert [step.completed for step in told] == sorted(step.completed for step in told)


def test_an_empty_and_a_missing_store(library: Library) -> None:
    assert verify(library) == Verification(0, 0, 0, ())
    assert not library.root.exists()


def test_every_kind_of_damage_names_the_models(library: Library) -> None:
    publish(library, "m", b"weights", b"flipped")
    publish(library, "n", b"weights", b"short", b"missing")
    unused = add(library, b"unused")
    write_manifest(library, "cut", DAMAGED)
    damage = {b"flipped": b"fLipped", b"short": b"shor", b"unused": b"used"}
    for content, now in damage.items():
        library.blobs.path(digest_of(content)).write_bytes(now)
    library.blobs.path(digest_of(b"missing")).unlink()
    manifest, *blobs = found(library)
    assert manifest[0].startswith("the manifest of 'cut:latest' is not valid: ")
    assert manifest[1] == ["cut:latest"]
    assert sorted(blobs) == sorted(
        [
            (f"blob {digest_of(b'flipped')} does not have the content that its name says", ["m:latest"]),
            (f"blob {digest_of(b'short')} is 4 bytes long instead of 5", ["n:latest"]),
            (f"blob {digest_of(b'missing')} is missing", ["n:latest"]),
            (f"blob {unused} does not have the content that its name says", []),
        ]
    )


def test_a_shared_blob_names_all_its_models_once(library: Library) -> None:
    publish(library, "m", b"weights", b"weights")
    library.copy(parse_name("m"), parse_name("n"))
    library.blobs.path(digest_of(b"weights")).write_bytes(b"WEIGHTS")
    assert [models for _, models in found(library)] == [["m:latest", "n:latest"]]


def test_damage_that_keeps_size_and_time_is_found(library: Library) -> None:
    publish(library, "m", b"weights")
    path = library.blobs.path(digest_of(b"weights"))
    info = path.stat()
    path.write_bytes(b"WEIGHTS")
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
    assert library.blobs.verified(digest_of(b"weights"))
    assert len(found(library)) == 1
    assert not library.blobs.verified(digest_of(b"weights"))


def test_a_manifest_with_the_wrong_size_of_a_good_blob(library: Library) -> None:
    publish(library, "m", b"weights")
    path = manifest_path(library, "m")
    path.write_bytes(path.read_bytes().replace(b'"size":7', b'"size":8'))
    assert [what for what, _ in found(library)] == [
        f"blob {digest_of(b'weights')} is 7 bytes long instead of 8"
    ]


def test_models_that_do_not_agree_on_the_size_of_a_blob(library: Library) -> None:
    for name in ("a", "b", "c"):
        publish(library, name, b"weights")
    for name, size in {"a": b"8", "c": b"9"}.items():
        path = manifest_path(library, name)
        path.write_bytes(path.read_bytes().replace(b'"size":7', b'"size":' + size))
    blob = f"blob {digest_of(b'weights')}"
    assert found(library) == [
        (f"{blob} is 7 bytes long instead of 8", ["a:latest"]),
        (f"{blob} is 7 bytes long instead of 9", ["c:latest"]),
    ]
    library.blobs.path(digest_of(b"weights")).write_bytes(b"WEIGHTS")
    assert found(library)[2] == (f"{blob} does not have the content that its name says", ["b:latest"])


def test_verifying_again_reads_only_what_may_have_changed(library: Library) -> None:
    publish(library, "m", b"weights", b"more")
    path = library.blobs.path(digest_of(b"more"))
    told: list[Progress] = []
    assert verify_library(library, told.append, again=True).damage == ()
    assert told == []
    path.write_bytes(b"MORE")
    assert len(verify_library(library, told.append, again=True).damage) == 1
    assert len(told) == 1
