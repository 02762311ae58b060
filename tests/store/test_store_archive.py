"""Models in one file: written for other tools, read from other tools, and from people who mean harm."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from tests.store.filled import (
    CONFIG,
    contents,
    digest_of,
    layer_of,
    manifest_of,
    manifest_path,
    names,
    publish,
)

from puna.errors import FormatError, InvalidOption, ModelNotFound, PunaError, StoreError
from puna.progress import Progress
from puna.store.archive import export_models, import_models
from puna.store.library import Library
from puna.store.manifests import CONFIG_TYPE, SYSTEM_LAYER, TEMPLATE_LAYER, Layer, encode_manifest
from puna.store.name import ModelName, parse_name

WEIGHTS = bytes(range(256)) * 9000
LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
FULL, TAG = "io.containerd.image.name", "org.opencontainers.image.ref.name"


def quiet(_: Progress) -> None:
    """Nobody listens."""


def export(library: Library, *models: str) -> bytes:
    file = io.BytesIO()
    export_models(library, [parse_name(model) for model in models], file, quiet)
    return file.getvalue()


def take(library: Library, archive: bytes, name: ModelName | None = None) -> list[str]:
    return [str(model) for model in import_models(library, io.BytesIO(archive), quiet, name)]


def unpacked(archive: bytes) -> dict[str, bytes]:
    """The members, as the standard library reads them."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {member.name: file.read() for member in tar if (file := tar.extractfile(member))}


def packed(members: Mapping[str, bytes], *more: tarfile.TarInfo, format: int = tarfile.PAX_FORMAT) -> bytes:
    """An archive of these members and then of these bare headers, as the standard library writes it."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for member in more:
            tar.addfile(member)
    return file.getvalue()


def image(annotations: Mapping[str, str] | None = None, **changed: object) -> dict[str, bytes]:
    """The members of a layout with one small model."""
    manifest = encode_manifest(manifest_of(layer_of(b"weights")))
    descriptor = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": str(digest_of(manifest)),
        "size": len(manifest),
        "annotations": {FULL: "m:1"} if annotations is None else annotations,
        **changed,
    }
    index = {"schemaVersion": 2, "manifests": [descriptor]}
    blobs = {blob(content): content for content in (manifest, b"weights", CONFIG)}
    return {"oci-layout": LAYOUT, "index.json": json.dumps(index).encode(), **blobs}


def blob(content: bytes) -> str:
    return f"blobs/sha256/{hashlib.sha256(content).hexdigest()}"


@pytest.fixture
def filled(tmp_path: Path) -> Library:
    """A store with two models that share their weights, and a third."""
    library = Library(tmp_path / "filled")
    publish(library, "me/m:7b", WEIGHTS, (TEMPLATE_LAYER, b"{{ .Prompt }}"))
    publish(library, "m", WEIGHTS, (SYSTEM_LAYER, b"Answer briefly."))
    publish(library, "pypi://package", b"other")
    return library


def test_what_is_written_is_an_oci_layout(filled: Library) -> None:
    members = unpacked(export(filled, "m", "me/m:7b"))
    first, second, *blobs = members
    assert (first, second) == ("oci-layout", "index.json")
    assert json.loads(members["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    documents = [manifest_path(filled, name).read_bytes() for name in ("m", "me/m:7b")]
    assert blobs == sorted(map(blob, [*documents, WEIGHTS, CONFIG, b"{{ .Prompt }}", b"Answer briefly."]))
    assert all(blob(members[name]) == name for name in blobs)
    assert json.loads(members["index.json"]) == {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [
            {
                "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
                "digest": str(digest_of(document)),
                "size": len(document),
                "annotations": {FULL: f"registry.ollama.ai/{name}", TAG: tag},
            }
            for document, name, tag in zip(
                documents, ("library/m:latest", "me/m:7b"), ("latest", "7b"), strict=True
            )
        ],
    }


def test_the_same_models_give_the_same_bytes(filled: Library, library: Library) -> None:
    archive = export(filled, "m", "me/m:7b", "pypi://package")
    os.utime(manifest_path(filled, "m"), (1, 1))
    assert export(filled, "pypi://package", "me/m:7b", "M", "m") == archive
    take(library, archive)
    assert export(library, "m", "me/m:7b", "pypi://package") == archive


def test_models_arrive_as_they_left(filled: Library, library: Library) -> None:
    models = ["me/m:7b", "m:latest", "pypi://package"]
    assert sorted(take(library, export(filled, *models))) == sorted(models)
    for name in models:
        assert manifest_path(library, name).read_bytes() == manifest_path(filled, name).read_bytes()
    assert contents(library) == contents(filled)
    assert len([*library.blobs.folder.iterdir()]) == len([*filled.blobs.folder.iterdir()])


def test_progress_counts_the_bytes(filled: Library, library: Library) -> None:
    told: list[Progress] = []
    file = io.BytesIO()
    export_models(filled, [parse_name("m")], file, told.append)
    size = len(WEIGHTS) + len(CONFIG) + len(b"Answer briefly.")
    assert told[-1] == Progress("exporting", size, size)
    told.clear()
    import_models(library, io.BytesIO(file.getvalue()), told.append)
    digest = digest_of(WEIGHTS)
    assert Progress(f"importing {digest.short}", len(WEIGHTS), len(WEIGHTS), str(digest)) in told
    assert told[-1] == Progress("writing manifest")


@pytest.mark.skipif(shutil.which("tar") is None, reason="there is no tar")
def test_tar_reads_it_and_what_tar_writes_is_read(filled: Library, library: Library, tmp_path: Path) -> None:
    archive, folder = tmp_path / "models.tar", tmp_path / "layout"
    archive.write_bytes(export(filled, "m", "pypi://package"))
    folder.mkdir()
    subprocess.run(["tar", "-xf", archive, "-C", folder], check=True, capture_output=True)
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert files == unpacked(archive.read_bytes())
    listed = subprocess.run([sys.executable, "-m", "tarfile", "-l", archive], check=True, capture_output=True)
    assert len(listed.stdout.split()) == len(files)
    for kind in ("gnu", "posix", "ustar", "v7"):
        again = tmp_path / f"{kind}.tar"
        subprocess.run(["tar", f"--format={kind}", "-cf", again, "-C", folder, "."], check=True)
        other = Library(tmp_path / kind)
        assert sorted(take(other, again.read_bytes())) == ["m:latest", "pypi://package"]


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("backwards", [False, True])
def test_members_may_come_in_any_order_and_format(library: Library, format: int, backwards: bool) -> None:
    members = dict(reversed(image().items())) if backwards else image()
    assert take(library, packed(members, format=format)) == ["m:1"]
    assert contents(library) == {b"weights"}


def test_extended_headers_are_heeded(library: Library) -> None:
    """Names and sizes that stand in extensions only, as long ones and those over 8 GB do."""
    pieces = []
    for name, content in image().items():
        member = tarfile.TarInfo("short")
        member.size = len(content)
        member.pax_headers = {"path": name, "comment": "x" * 1000}
        pieces += [member.tobuf(tarfile.PAX_FORMAT), content, bytes(-len(content) % 512)]
    assert take(library, b"".join(pieces) + bytes(1024)) == ["m:1"]
    long = tarfile.TarInfo("folder/" * 30 + "README")
    for format in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        assert take(library, packed(image(), long, format=format)) == ["m:1"]


def test_what_belongs_to_others_is_passed_over(library: Library) -> None:
    folder = tarfile.TarInfo("blobs")
    folder.type = tarfile.DIRTYPE
    members = {"manifest.json": b"[]", "./repositories": b"{}", **image(), "blobs/sha512/x": b"x" * 5000}
    assert take(library, packed(members, folder)) == ["m:1"]
    assert contents(library) == {b"weights"}


@pytest.mark.parametrize(
    ("annotations", "name"),
    [
        ({FULL: "h/n/m:1", TAG: "1"}, "h/n/m:1"),
        ({FULL: "docker.io/library/m:1"}, "docker.io/library/m:1"),
        ({TAG: "n/m:2"}, "n/m:2"),
        ({TAG: "m:2"}, "m:2"),
        ({FULL: "pypi/library/package:1.0"}, "pypi://package:1.0"),
    ],
)
def test_where_the_name_stands(library: Library, annotations: dict[str, str], name: str) -> None:
    assert take(library, packed(image(annotations))) == [name]


@pytest.mark.parametrize("annotations", [{}, {TAG: "latest"}])
def test_a_tag_alone_needs_a_name(library: Library, annotations: dict[str, str]) -> None:
    archive = packed(image(annotations))
    with pytest.raises(InvalidOption, match="give a name for it"):
        take(library, archive)
    assert not library.root.exists()
    assert take(library, archive, parse_name("mine:3")) == ["mine:3"]


def test_one_name_is_not_for_several_models(filled: Library, library: Library) -> None:
    with pytest.raises(InvalidOption, match="holds 2 models"):
        take(library, export(filled, "m", "me/m:7b"), parse_name("x"))
    assert not library.root.exists()


def test_blobs_that_are_in_the_store_need_not_come(library: Library) -> None:
    for content in (b"weights", CONFIG):
        members = image()
        del members[blob(content)]
        refused(library, packed(members), f"blob {digest_of(content)} is missing")
    publish(library, "other", b"weights")
    assert take(library, packed(members)) == ["m:1"]


def test_a_damaged_blob_of_the_store_does_not_count(library: Library) -> None:
    members = image()
    del members[blob(b"weights")]
    publish(library, "other", b"weights")
    library.blobs.path(digest_of(b"weights")).write_bytes(b"WEIGHTS")
    with pytest.raises(FormatError, match="does not have the content"):
        take(library, packed(members))
    assert names(library) == ["other:latest"]
    assert take(library, packed(image())) == ["m:1"]
    assert library.blobs.path(digest_of(b"weights")).read_bytes() == b"weights"


def test_a_former_model_of_the_name_is_replaced(library: Library) -> None:
    publish(library, "m:1", b"old")
    take(library, packed(image()))
    assert contents(library) == {b"weights"}


def test_an_import_from_a_pipe(filled: Library, library: Library) -> None:
    archive = export(filled, "m")
    ours, theirs = os.pipe()

    def write() -> None:
        with os.fdopen(theirs, "wb", buffering=0) as pipe:
            for start in range(0, len(archive), 777):
                pipe.write(archive[start : start + 777])
            pipe.write(bytes(10_000))

    writer = threading.Thread(target=write)
    writer.start()
    with os.fdopen(ours, "rb", buffering=0) as pipe:
        assert [str(name) for name in import_models(library, pipe, quiet)] == ["m:latest"]
    writer.join()


# ---- what is refused ----


def refused(library: Library, archive: bytes, message: str) -> None:
    """The archive is refused with one line, and the store is as it was, to the last file."""

    def state() -> list[tuple[Path, bytes]]:
        files = (path for path in library.root.rglob("*") if path.is_file())
        return sorted((path, path.read_bytes()) for path in files)

    before = state()
    with pytest.raises(PunaError) as caught:
        take(library, archive)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    assert state() == before
    if not before:
        assert not library.root.exists()


def header(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, link, size
    return member


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (header("../../x"), "'../../x', which leads out"),
        (header(".."), "leads out"),
        (header("/x"), "'/x', which leads out"),
        (header("//x"), "leads out"),
        (header("./../x"), "leads out"),
        (header(".//x"), "leads out"),
        (header("blobs/../../x"), "leads out"),
        (header("C:\\x"), "leads out"),
        (header("c:x"), "leads out"),
        (header("a\\..\\..\\x"), "leads out"),
        (header("\\\\server\\x"), "leads out"),
        (header("../x", tarfile.DIRTYPE), "leads out"),
        (header("x" * 300 + "/../../y"), "leads out"),
        (header("link", tarfile.SYMTYPE, "/etc"), "'link' is a link"),
        (header("index.json", tarfile.SYMTYPE, "/etc/passwd"), "'index.json' is a link"),
        (header(blob(b"x"), tarfile.LNKTYPE, "index.json"), "is a link"),
        (header("null", tarfile.CHRTYPE), "is a device or a pipe"),
        (header("disk", tarfile.BLKTYPE), "is a device or a pipe"),
        (header("pipe", tarfile.FIFOTYPE), "is a device or a pipe"),
        (header("sparse", tarfile.GNUTYPE_SPARSE), "of an unknown kind"),
        (header("what", b"Z"), "of an unknown kind"),
    ],
    ids=lambda value: value.name[:20] if isinstance(value, tarfile.TarInfo) else "",
)
@pytest.mark.parametrize("first", [True, False])
def test_members_that_have_no_place_in_an_archive(
    library: Library, member: tarfile.TarInfo, message: str, first: bool
) -> None:
    bare = member.tobuf(tarfile.GNU_FORMAT)
    refused(
        library, bare + packed(image()) if first else packed(image())[:-10240] + bare + bytes(1024), message
    )


def test_names_and_kinds_hidden_in_extensions(library: Library) -> None:
    evil = header("good")
    evil.pax_headers = {"path": "../evil"}
    refused(library, packed(image(), evil), "'../evil', which leads out")
    with_holes = header("good")
    with_holes.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.realsize": "99999999999"}
    refused(library, packed(image(), with_holes), "a file with holes")
    for everywhere in ({"path": "index.json"}, {"size": "0"}):
        first = tarfile.TarInfo.create_pax_global_header(everywhere)
        refused(library, first + packed(image()), "all its members one name or size")
    assert take(library, tarfile.TarInfo.create_pax_global_header({"comment": "x"}) + packed(image())) == [
        "m:1"
    ]


@pytest.mark.parametrize("name", ["oci-layout", "index.json", blob(b"weights")])
def test_duplicates(library: Library, name: str) -> None:
    again = {f"./{name}": image()[name]}
    body = b"".join(
        header(member, size=len(content)).tobuf() + content + bytes(-len(content) % 512)
        for member, content in [*image().items(), *again.items()]
    )
    refused(library, body + bytes(1024), "twice")


def test_two_models_of_one_name(library: Library) -> None:
    members = image()
    index = json.loads(members["index.json"])
    twin = {**index["manifests"][0], "annotations": {FULL: "M:1"}}
    members["index.json"] = json.dumps({"manifests": [*index["manifests"], twin]}).encode()
    refused(library, packed(members), "two of its models one name")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"oci-layout": None}, "there is no oci-layout"),
        ({"index.json": None}, "there is no index.json"),
        ({"oci-layout": b"{}"}, "oci-layout is not valid"),
        ({"oci-layout": b'{"imageLayoutVersion":"2.0.0"}'}, "layout version '2.0.0'"),
        ({"index.json": b"{"}, "index.json is not valid"),
        ({"index.json": b'{"manifests":[]}'}, "names 0 models"),
        ({"index.json": b'{"manifests":' + b"[" * 100_000}, "index.json is not valid"),
        ({"index.json": b" " * ((4 << 20) + 1)}, "4194304 is the limit"),
        ({blob(b"weights"): None}, "is missing"),
        ({blob(b"weights"): b"WEIGHTS"}, "digest mismatch"),
        ({blob(b"weights"): b""}, "digest mismatch"),
        ({"foreign": bytes((16 << 20) + 1)}, "is no part of a model, and too large"),
        ({f"foreign{n}": bytes(4 << 20) for n in range(5)}, "is no part of a model, and too large"),
    ],
    ids=lambda value: "-".join(value)[:30] if isinstance(value, dict) else "",
)
def test_contents_that_are_not_right(
    library: Library, changed: dict[str, bytes | None], message: str
) -> None:
    publish(library, "m:1", b"mine")
    members = {name: content for name, content in {**image(), **changed}.items() if content is not None}
    refused(library, packed(members), message)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"digest": str(digest_of(b"gone"))}, "its manifest sha256:"),
        ({"digest": "sha256:../../x"}, "invalid digest"),
        ({"digest": str(digest_of(b"weights"))}, "cannot be stored"),
        ({"size": 1}, "bytes long instead of 1"),
        ({"mediaType": "application/vnd.oci.image.index.v1+json"}, "images for several machines"),
        ({"annotations": {FULL: "../../x"}}, "invalid model name"),
        ({"annotations": {FULL: "m:"}}, "invalid model name"),
        ({"annotations": {FULL: 1}}, "index.json is not valid"),
    ],
    ids=str,
)
def test_descriptors_that_are_not_right(library: Library, changed: dict[str, object], message: str) -> None:
    refused(library, packed(image(**changed)), message)  # type: ignore[arg-type]  # annotations among them


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([Layer("application/vnd.oci.image.layer.v1.tar", str(digest_of(b"weights")), 7)], "part of a model"),
        ([], "part of a model"),
        ([layer_of(b"weights"), layer_of(b"gone")], "is missing"),
        ([Layer(layer_of(b"").media_type, str(digest_of(b"weights")), 8)], "7 bytes long instead of 8"),
    ],
)
def test_manifests_that_are_not_right(library: Library, layers: list[Layer], message: str) -> None:
    manifest = encode_manifest(manifest_of(*layers))
    members = {**image(digest=str(digest_of(manifest)), size=len(manifest)), blob(manifest): manifest}
    refused(library, packed(members), message)


def test_one_wrong_model_keeps_the_others_out(filled: Library, library: Library) -> None:
    members = unpacked(export(filled, "m", "pypi://package"))
    del members[blob(b"other")]
    refused(library, packed(members), "model 'pypi://package' cannot be stored")


@pytest.mark.parametrize(
    ("archive", "message"),
    [
        (b"", "no oci-layout"),
        (bytes(10240), "no oci-layout"),
        (b"once upon a time", "ends inside a header"),
        (b"once upon a time " * 100, "no tar archive"),
        (b"\x1f\x8b\x08" + bytes(1000), "no tar archive"),
        (b"PK\x03\x04" + bytes(1000), "no tar archive"),
        (b"GGUF" + bytes(1000), "no tar archive"),
        (packed(image())[:1000], "should"),
        (header("index.json", size=1 << 62).tobuf(tarfile.GNU_FORMAT), "4194304 is the limit"),
        (header("x", size=1 << 62).tobuf(tarfile.GNU_FORMAT), "no part of a model"),
        (header(blob(b"x"), size=1 << 62).tobuf(tarfile.GNU_FORMAT), "not enough disk space"),
        (header("x", b"x", size=1 << 40).tobuf(tarfile.GNU_FORMAT), "a header of 1099511627776 bytes"),
        (header("x", b"L", size=1 << 40).tobuf(tarfile.GNU_FORMAT), "a header of 1099511627776 bytes"),
        (header("x", b"x", size=600).tobuf() + b"1" * 1024, "damaged extended header"),
        (header("x", b"x", size=8).tobuf() + b"3 x=y\n\n\n" + bytes(504), "damaged extended header"),
        (
            header("x", b"x", size=12).tobuf() + b"12 size=-1 \n" + bytes(500) + header("y").tobuf(),
            "the size",
        ),
    ],
    ids=range(16),
)
def test_what_is_no_archive(library: Library, archive: bytes, message: str) -> None:
    refused(library, archive, message)


def test_an_archive_cut_anywhere(library: Library) -> None:
    archive = packed(image())
    end = len(archive.rstrip(b"\0"))
    for size in range(0, end, 389):
        with pytest.raises(FormatError):
            take(library, archive[:size])
        assert not library.root.exists()


def test_any_byte_changed_gives_the_model_or_one_error(library: Library) -> None:
    archive = bytearray(packed(image(), format=tarfile.USTAR_FORMAT))
    for place in range(0, 2048, 41):
        archive[place] ^= 0x41
        try:
            take(library, bytes(archive))
        except PunaError as error:
            assert "\n" not in str(error)
            assert not library.root.exists()
        else:
            assert contents(library) == {b"weights"}
            for name in names(library):
                library.delete(parse_name(name))
            shutil.rmtree(library.root)
        archive[place] ^= 0x41


@pytest.mark.parametrize("count", [1_000, pytest.param(200_000, marks=pytest.mark.slow)])
def test_a_great_many_members(library: Library, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if count < 100_000:
        monkeypatch.setattr("puna.store.tar._MAX_HEADERS", count // 2)
    refused(library, header("x").tobuf() * count, "members")


def test_zeros_without_end_are_not_read_to_the_end(library: Library) -> None:
    with open("/dev/zero", "rb") as zeros, pytest.raises(FormatError, match="no oci-layout"):
        import_models(library, zeros, quiet)


def test_names_are_judged_in_linear_time(library: Library) -> None:
    member = header("x")
    member.pax_headers = {"path": "a../" * 15_000}
    refused(library, packed({}, member), "there is no oci-layout")


# ---- exports that fail ----


def test_an_export_of_nothing(filled: Library) -> None:
    file = io.BytesIO()
    with pytest.raises(ModelNotFound):
        export_models(filled, [parse_name("m"), parse_name("gone")], file, quiet)
    assert file.getvalue() == b""


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(b"cut"), "3 bytes long"),
        (lambda path: path.write_bytes(bytes(len(WEIGHTS))), "does not have the content"),
    ],
    ids=["missing", "cut", "changed"],
)
def test_a_damaged_model_is_not_exported(
    filled: Library, damage: Callable[[Path], object], message: str
) -> None:
    damage(filled.blobs.path(digest_of(WEIGHTS)))
    file = io.BytesIO()
    with pytest.raises(StoreError, match=f"model 'm:latest' is damaged: blob .* {message}"):
        export_models(filled, [parse_name("m")], file, quiet)
    assert file.getvalue() == b""
    assert export(filled, "pypi://package")


def test_a_model_of_another_media_type_keeps_its_bytes(library: Library, tmp_path: Path) -> None:
    document = encode_manifest(manifest_of(layer_of(b"weights"))).replace(
        b"application/vnd.docker.distribution.manifest.v2+json", b"application/vnd.oci.image.manifest.v1+json"
    )
    with library.session() as session:
        session.add("x", [b"weights"])
        session.add(CONFIG_TYPE, [CONFIG])
        session.publish(parse_name("m"), document)
    other = Library(tmp_path / "other")
    take(other, export(library, "m"))
    assert manifest_path(other, "m").read_bytes() == document
