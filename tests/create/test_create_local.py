"""Models made from Modelfiles and the files beside them."""

import os
from pathlib import Path

import pytest
from tests.create.conftest import Maker, refused_locally, tree, write_gguf, write_parts
from tests.tiny_llama import write_tiny_llama

from puna.create.local import resolve
from puna.errors import FormatError, InvalidOption, ModelfileError, PunaError, UnsupportedModel
from puna.modelfile.parser import parse
from puna.store.blobs import BlobStore
from puna.store.manifests import MODEL_LAYER, PARAMETERS_LAYER
from puna.store.model import Message, read_model
from puna.store.name import parse_name


def test_a_modelfile_with_everything(maker: Maker) -> None:
    write_tiny_llama(maker.folder / "tiny.gguf")
    write_gguf(maker.folder / "sub" / "mmproj.gguf", architecture="clip")
    write_gguf(maker.folder / "lora.gguf", {"general.type": "adapter"})
    statuses = maker.local(
        """
        # everything
        FROM ./tiny.gguf
        FROM sub/mmproj.gguf
        ADAPTER lora.gguf
        TEMPLATE {{ .Prompt }}
        SYSTEM first
        SYSTEM be kind
        LICENSE MIT
        LICENSE GPL
        PARAMETER temperature 0.7
        PARAMETER stop a
        PARAMETER stop "b "
        PARAMETER low_vram true
        MESSAGE user hi
        MESSAGE assistant ho
        RENDERER r
        PARSER p
        REQUIRES v0.14.0
        """,
        "me/all:x",
    )
    made = read_model(maker.library, parse_name("me/all:x"))
    assert (made.template, made.system, made.licenses) == ("{{ .Prompt }}", "be kind", ("MIT", "GPL"))
    assert made.messages == (Message("user", "hi"), Message("assistant", "ho"))
    assert maker.blob("me/all:x", PARAMETERS_LAYER) == b'{"stop":["a","b "],"temperature":0.7}\n'
    assert (made.config.renderer, made.config.parser, made.config.requires) == ("r", "p", "0.14.0")
    assert made.config.model_families == ["llama", "clip", "llama"]
    assert [layer.from_ for layer in made.manifest.layers[:3]] == ["tiny.gguf", "mmproj.gguf", "lora.gguf"]
    assert statuses[:2] == ["warning: parameter low_vram is deprecated", "gathering model components"]
    assert statuses[-2:] == ["writing manifest", "success"]
    # The prompt's parts apart, every blob is a file that was here.
    assert maker.blob("me/all:x", MODEL_LAYER) == (maker.folder / "tiny.gguf").read_bytes()


def test_the_file_is_not_copied_where_the_disk_can_do_without(maker: Maker) -> None:
    path = write_gguf(maker.folder / "m.gguf", tensors={"a": 100_000})
    content = path.read_bytes()
    maker.local("FROM m.gguf")
    layer = maker.library.manifests.read(parse_name("new")).layers[0]
    blob = maker.library.blobs.path(layer.content)
    probe = maker.library.root / "probe"
    os.link(path, probe)
    probe.unlink()
    assert blob.stat().st_ino == path.stat().st_ino or _clones(path, maker.library.blobs)
    path.unlink()
    assert blob.read_bytes() == content


def _clones(path: Path, blobs: BlobStore) -> bool:
    """Whether the file system lets files share their blocks, in which case no second name is needed."""
    import fcntl

    target = blobs.folder / "probe"
    with path.open("rb") as source, target.open("xb") as copy:
        try:
            fcntl.ioctl(copy.fileno(), 0x40049409, source.fileno())
        except OSError:
            return False
        finally:
            target.unlink()
    return True


def test_links_to_files_are_followed_where_the_user_names_them(maker: Maker, tmp_path: Path) -> None:
    write_gguf(tmp_path / "elsewhere" / "0f3a")
    (maker.folder / "m.gguf").symlink_to(tmp_path / "elsewhere" / "0f3a")
    maker.local("FROM m.gguf")
    layer = maker.library.manifests.read(parse_name("new")).layers[0]
    assert layer.from_ == "m.gguf"
    assert not maker.library.blobs.path(layer.content).is_symlink()


def test_absolute_paths_and_the_home_folder(
    maker: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = write_gguf(tmp_path / "home.gguf")
    for text in ("FROM ~/home.gguf", f"FROM {path}", f'FROM "{path}"'):
        maker.local(text)
        assert maker.blob("new", MODEL_LAYER) == path.read_bytes()


def test_a_file_with_the_name_of_a_model_is_the_file(maker: Maker) -> None:
    write_gguf(maker.folder / "llama3.2")
    assert resolve(parse("FROM llama3.2"), maker.folder).from_ is None
    assert str(resolve(parse("FROM llama3.3"), maker.folder).from_) == "llama3.3:latest"
    sources = resolve(parse("FROM first\nFROM h.co/u/second:q8"), maker.folder)
    assert (str(sources.from_), dict(sources.files)) == ("h.co/u/second:q8", {})


def test_a_model_derived_with_a_projector(maker: Maker) -> None:
    write_gguf(maker.folder / "m.gguf")
    write_gguf(maker.folder / "p.gguf", architecture="clip")
    maker.local("FROM m.gguf", "base")
    maker.local('FROM base\nFROM p.gguf\nSYSTEM ""')
    made = read_model(maker.library, parse_name("new"))
    assert (len(made.projectors), made.parent) == (1, "base:latest")


def test_a_folder(maker: Maker) -> None:
    write_gguf(maker.folder / "d" / "model.gguf")
    write_gguf(maker.folder / "d" / "mmproj.gguf", architecture="clip")
    (maker.folder / "d" / "README.md").write_text("x")
    (maker.folder / "d" / "pytorch_model.bin").write_bytes(b"\x80\x02never read")
    maker.local("FROM d")
    assert len(read_model(maker.library, parse_name("new")).projectors) == 1
    maker.local("FROM ./d/")


@pytest.mark.parametrize(
    "text", ["FROM d", "FROM d/big-00002-of-00003.gguf", "FROM d/big-00001-of-00003.gguf"]
)
def test_a_split_model_is_found_whole(maker: Maker, text: str) -> None:
    write_parts(maker.folder / "d")
    write_gguf(maker.folder / "other.gguf")
    maker.local(text)
    layers = maker.library.manifests.read(parse_name("new")).layers
    assert layers[0].from_ == "big.gguf"
    # The parts are not in the store: model, template, parameters and config are.
    assert len([*maker.library.blobs]) == 4


def test_the_same_file_twice_is_one(maker: Maker) -> None:
    write_parts(maker.folder)
    first, *_ = sorted(path.name for path in maker.folder.iterdir())
    maker.local(f"FROM {first}\nFROM ./{first}\nFROM .")
    assert len(read_model(maker.library, parse_name("new")).manifest.all(MODEL_LAYER)) == 1


def test_files_of_one_name_in_two_folders(maker: Maker) -> None:
    write_gguf(maker.folder / "a" / "m.gguf")
    write_gguf(maker.folder / "b" / "m.gguf", architecture="clip")
    assert sorted(resolve(parse("FROM a/m.gguf\nFROM b/m.gguf"), maker.folder).files) == [
        "1/m.gguf",
        "m.gguf",
    ]
    maker.local("FROM a/m.gguf\nFROM b/m.gguf")
    assert len(read_model(maker.library, parse_name("new")).projectors) == 1


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("FROM ./none.gguf", ModelfileError, "^line 1, column 6: invalid model name"),
        ("\n FROM none.gguf", ModelfileError, "^line 2, column 7: there is no file 'none.gguf'$"),
        ("FROM /etc/none/x", ModelfileError, "^line 1, column 6: invalid model name"),
        ('FROM ""', ModelfileError, "^line 1, column 6: invalid model name"),
        ("FROM ~nobody-of-that-name/x.gguf", ModelfileError, "^line 1, column 6: invalid model name"),
        ("FROM " + "x" * 5000, ModelfileError, "^line 1, column 6: invalid model name"),
        (
            "FROM m.gguf\nADAPTER none.gguf",
            ModelfileError,
            "^line 2, column 9: there is no file 'none.gguf'$",
        ),
        ("FROM m.gguf\nADAPTER m.gguf", FormatError, "^'m.gguf' is no adapter"),
        ("FROM m.gguf\nADAPTER l.gguf\nADAPTER k.gguf", InvalidOption, "^only one adapter"),
        ("FROM l.gguf", FormatError, "^'l.gguf' is an adapter"),
        ("FROM m.gguf\nDRAFT m.gguf", UnsupportedModel, "^line 2: DRAFT is not supported yet"),
        ("FROM m.gguf\nREQUIRES new", ModelfileError, "^line 2, column 10: requires must be a valid semver"),
        ("FROM m.gguf\nPARAMETER top_p 2", InvalidOption, "^top_p must be a number from 0 to 1"),
        ("FROM m.gguf\nPARAMETER num_ctx 1e309", ModelfileError, "^line 2, column 19: invalid int value"),
        ("FROM m.gguf\nTEMPLATE {{", FormatError, "^template error: "),
        ("FROM empty", ModelfileError, "^line 1, column 6: no Modelfile or safetensors files found$"),
        ("FROM text.gguf", FormatError, "^'text.gguf': supplied file was not in GGUF format$"),
        ("FROM cut.gguf", FormatError, "^'cut.gguf': "),
        ("FROM pipe.gguf", FormatError, "^'pipe.gguf' is not a regular file$"),
        ("FROM /dev/zero", FormatError, "^'zero' is not a regular file$"),
        ("FROM m.gguf\nFROM copy.gguf", FormatError, "^'m.gguf' and 'copy.gguf' are two models"),
        ("FROM m.gguf\nFROM big-00001-of-00002.gguf", FormatError, "'big-00002-of-00002.gguf' is missing"),
        ("FROM none:latest", PunaError, "^model 'none:latest' not found$"),
    ],
)
def test_faults_give_one_line_and_change_nothing(
    maker: Maker, text: str, kind: type[PunaError], message: str
) -> None:
    content = write_gguf(maker.folder / "m.gguf").read_bytes()
    write_gguf(maker.folder / "copy.gguf", {"general.name": "x"})
    for name in ("l.gguf", "k.gguf"):
        write_gguf(maker.folder / name, {"general.type": "adapter", "general.name": name})
    (maker.folder / "text.gguf").write_text("FROM m")
    (maker.folder / "cut.gguf").write_bytes(content[:60])
    (maker.folder / "empty").mkdir()
    write_parts(maker.folder, 2)[1].unlink()
    os.mkfifo(maker.folder / "pipe.gguf")
    refused_locally(maker, text, kind, message)


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("model.safetensors", FormatError, "there is no config.json"),
        ("sub/model-00001-of-00002.safetensors", FormatError, "cannot be converted"),
        ("consolidated.00.safetensors", FormatError, "cannot be converted"),
        ("pytorch_model.bin", FormatError, "can hold programs"),
        ("consolidated.00.pth", FormatError, "can hold programs"),
        ("model.ckpt", FormatError, "can hold programs"),
        ("optimizer.pt", FormatError, "can hold programs"),
        ("weights.npy", FormatError, "can hold programs"),
        ("config.json", ModelfileError, "no Modelfile or safetensors files found"),
    ],
)
def test_folders_of_other_formats(maker: Maker, name: str, kind: type[PunaError], message: str) -> None:
    marker = maker.folder / "marker"
    path = maker.folder / "d" / name
    path.parent.mkdir(parents=True)
    # Unpickling this would make the marker.
    path.write_bytes(b"cos\nsystem\n(S'touch " + bytes(marker) + b"'\ntR.")
    refused_locally(maker, "FROM d", kind, message)
    assert not marker.exists()


def test_links_that_lead_out_of_a_folder(maker: Maker, tmp_path: Path) -> None:
    write_gguf(tmp_path / "outside.gguf")
    folder = maker.folder / ".cache" / "d"
    folder.mkdir(parents=True)
    (folder / "m.gguf").symlink_to(tmp_path / "outside.gguf")
    refused_locally(
        maker, "FROM .cache/d", ModelfileError, "^line 1, column 6: insecure path: m.gguf; .*--local-dir"
    )
    folder.rename(maker.folder / "e")
    refused_locally(maker, "FROM e", ModelfileError, "^line 1, column 6: insecure path: m.gguf$")


def test_links_within_a_folder_and_to_it(maker: Maker) -> None:
    write_gguf(maker.folder / "d" / "blobs" / "0f")
    (maker.folder / "d" / "m.gguf").symlink_to("blobs/0f")
    (maker.folder / "link").symlink_to("d")
    (maker.folder / "d" / "README").symlink_to("/etc/passwd")
    for text in ("FROM d", "FROM link"):
        maker.local(text)
        assert maker.library.manifests.read(parse_name("new")).layers[0].from_ == "m.gguf"


def test_links_in_circles(maker: Maker) -> None:
    (maker.folder / "a.gguf").symlink_to("b.gguf")
    (maker.folder / "b.gguf").symlink_to("a.gguf")
    refused_locally(maker, "FROM a.gguf", ModelfileError, "there is no file 'a.gguf'")
    refused_locally(maker, "FROM .", PunaError, "a.gguf")


def test_a_failure_after_the_files_were_stored_takes_them_back(maker: Maker) -> None:
    write_gguf(maker.folder / "kept.gguf", {"general.name": "kept"})
    maker.local("FROM kept.gguf", "kept")
    before = tree(maker.library.root)
    write_parts(maker.folder)
    with pytest.raises(FormatError, match="template error"):
        maker.local("FROM big-00001-of-00003.gguf\nTEMPLATE {{")
    assert tree(maker.library.root) == before
