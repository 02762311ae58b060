"""Models described as Modelfiles, which make the same models again."""

from dataclasses import replace

from tests.create.conftest import Maker, write_gguf

from puna.create.describe import modelfile_of
from puna.modelfile.formatter import format
from puna.store.model import Message, read_model
from puna.store.name import parse_name


def test_a_described_model_makes_itself(maker: Maker) -> None:
    write_gguf(maker.folder / "m.gguf")
    write_gguf(maker.folder / "p.gguf", architecture="clip")
    write_gguf(maker.folder / "a.gguf", {"general.type": "adapter"})
    maker.local(
        'FROM m.gguf\nFROM p.gguf\nADAPTER a.gguf\nTEMPLATE """{{ .Prompt }}\n"x"\n"""\nSYSTEM "\n a"\n'
        "RENDERER r\nPARSER p\nREQUIRES 1.0.0\nPARAMETER num_ctx 1000000\nPARAMETER temperature 0.7\n"
        'PARAMETER stop " a"\nPARAMETER stop b\nLICENSE """MIT\n"""\nMESSAGE user hi\nMESSAGE assistant ho\n',
        "first",
    )
    first = read_model(maker.library, parse_name("first"))
    blobs = maker.library.blobs.folder
    paths = [blobs / layer.content.file_name for layer in first.manifest.layers[:3]]
    text = format(modelfile_of(first))
    assert text == (
        f'FROM {paths[0]}\nADAPTER {paths[2]}\nFROM {paths[1]}\nTEMPLATE """{{{{ .Prompt }}}}\n"x"\n"""\n'
        'SYSTEM "\n a"\nRENDERER r\nPARSER p\nREQUIRES 1.0.0\nPARAMETER num_ctx 1000000\n'
        'PARAMETER stop " a"\nPARAMETER stop b\nPARAMETER temperature 0.7\nLICENSE "MIT\n"\n'
        "MESSAGE user hi\nMESSAGE assistant ho\n"
    )
    maker.local(text, "second")
    second = read_model(maker.library, parse_name("second"))
    assert [layer.digest for layer in second.manifest.blobs] == [
        layer.digest for layer in first.manifest.blobs
    ]


def test_what_a_modelfile_cannot_say_is_left_out(maker: Maker) -> None:
    write_gguf(maker.folder / "m.gguf")
    maker.local("FROM m.gguf")
    model = read_model(maker.library, parse_name("new"))
    odd = replace(
        model, path=None, messages=(Message("tool", "x"),), parameters={"a b": 1, "c": {}, "seed": None}
    )
    assert format(modelfile_of(odd)) == "FROM new:latest\n"
