"""`puna create` and `puna show`, as a user types them."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from puna.gguf import GGUFFile
from puna.gguf.writer import GGUFWriter
from puna.store.library import Library
from puna.store.manifests import (
    MODEL_LAYER,
    PARAMETERS_LAYER,
    SYSTEM_LAYER,
    TEMPLATE_LAYER,
    image_manifest,
)
from puna.store.model import read_model
from puna.store.name import parse_name

Puna = Callable[..., "CompletedProcess[str]"]

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MODELFILE = """# a comment
FROM {path}
TEMPLATE \"\"\"{{{{ if .System }}}}S: {{{{ .System }}}}
{{{{ end }}}}U: {{{{ .Prompt }}}}
A: {{{{ .Response }}}}\"\"\"
SYSTEM "Be brief."
PARAMETER stop "U:"
PARAMETER stop "S:"
PARAMETER temperature 0.25
PARAMETER num_predict 4
LICENSE Do what you want.
MESSAGE user Hi
MESSAGE assistant Hello.
"""


@pytest.fixture
def library(home: Path) -> Library:
    return Library(home / ".ollama" / "models")


@pytest.fixture
def made(puna: Puna, base_model: Path, tmp_path: Path) -> Path:
    """A model `mine` with everything a Modelfile can say; where its Modelfile is."""
    path = tmp_path / "Modelfile"
    path.write_text(MODELFILE.format(path=base_model))
    result = puna("create", "mine")
    assert (result.returncode, result.stdout) == (0, "")
    return path


def with_template(source: Path, path: Path, template: str) -> Path:
    """The model with another chat template."""
    with GGUFFile.open(source) as file, GGUFWriter(path) as writer:
        writer.copy_metadata(file.metadata)
        writer.add("tokenizer.chat_template", template)
        for name, tensor in file.tensors.items():
            writer.add_tensor(name, tensor.type, tensor.shape, bytes(file.tensor_bytes(name)))
    return path


def shown(puna: Puna, *arguments: str) -> str:
    result = puna("show", *arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


def layers(library: Library, name: str) -> Mapping[str, str]:
    return {layer.media_type: layer.digest for layer in library.manifests.read(parse_name(name)).layers}


def test_the_steps_are_those_users_know(puna: Puna, made: Path) -> None:
    result = puna("create", "again")
    lines = result.stderr.splitlines()
    assert lines[:2] == ["gathering model components", "parsing GGUF"]
    assert [line.rpartition(" ")[0] for line in lines[2:-3]] == ["using existing layer"] * 6
    assert lines[-3] == "writing manifest"
    assert re.fullmatch("chat template sha256:[0-9a-f]{64}", lines[-2])
    assert lines[-1] == "success"


def test_progress_as_json(puna: Puna, made: Path) -> None:
    result = puna("create", "again", "--json")
    assert [*map(json.loads, result.stdout.splitlines())][-1] == {"status": "success"}
    assert result.stderr == ""


def test_a_page_about_a_model(puna: Puna, made: Path) -> None:
    page = shown(puna, "mine")
    assert "  Model\n    architecture        llama\n" in page
    assert "    context length      4096\n    embedding length    64\n" in page
    assert "\n  Capabilities\n    completion\n" in page
    parameters = (
        '    num_predict    4\n    stop           "U:"\n    stop           "S:"\n    temperature    0.25\n'
    )
    assert f"\n  Parameters\n{parameters}" in page
    assert "\n  System\n    Be brief.\n" in page
    assert "\n  License\n    Do what you want.\n" in page
    verbose = shown(puna, "mine", "--verbose")
    assert "\n  Metadata\n" in verbose and "\n  Tensors\n" in verbose
    assert re.search(r"\n    token_embd\.weight +F32 +\[64, 258\]\n", verbose)


def test_each_part_by_itself(puna: Puna, made: Path) -> None:
    assert shown(puna, "mine", "--system") == "Be brief.\n"
    assert shown(puna, "mine", "--license") == "Do what you want.\n"
    assert shown(puna, "mine", "--template").startswith("{{ if .System }}S: ")
    lines = shown(puna, "mine", "--parameters").splitlines()
    assert lines == [
        "num_predict                    4",
        'stop                           "U:"',
        'stop                           "S:"',
        "temperature                    0.25",
    ]


def test_everything_as_json(puna: Puna, made: Path) -> None:
    document = json.loads(shown(puna, "mine", "--json"))
    assert document["details"]["family"] == "llama"
    assert document["model_info"]["llama.block_count"] == 2
    assert document["model_info"]["tokenizer.ggml.tokens"] is None
    assert document["messages"] == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
    ]
    assert document["capabilities"] == ["completion"]
    assert {"name": "token_embd.weight", "type": "F32", "shape": [64, 258]} in document["tensors"]
    verbose = json.loads(shown(puna, "mine", "--json", "--verbose"))
    assert len(verbose["model_info"]["tokenizer.ggml.tokens"]) == 258


def test_the_modelfile_makes_the_model_again(puna: Puna, made: Path, library: Library) -> None:
    made.write_text(shown(puna, "mine", "--modelfile"))
    assert puna("create", "twin").returncode == 0
    assert layers(library, "twin") == layers(library, "mine")


def test_the_file_is_linked_not_copied(puna: Puna, made: Path, base_model: Path, library: Library) -> None:
    layer = library.manifests.read(parse_name("mine")).first(MODEL_LAYER)
    assert layer is not None
    blob = library.blobs.path(layer.content)
    assert blob.stat().st_ino == base_model.stat().st_ino


def test_what_the_modelfile_says_counts_when_the_model_runs(puna: Puna, made: Path) -> None:
    result = puna("run", "mine", "--seed", "1", "--verbose", "What?")
    assert result.returncode == 0, result.stderr
    # "S: Be brief.\nU: Hi\nA: Hello.U: What?\nA: " with a token a byte.
    assert "prompt eval count:    40 token(s)" in result.stderr
    assert "eval count:           4 token(s)" in result.stderr
    other = puna("run", "mine", "--system", "", "--verbose", "What?")
    assert "prompt eval count:    27 token(s)" in other.stderr


def test_a_known_template_is_recognised_by_what_it_does(
    puna: Puna, base_model: Path, tmp_path: Path, library: Library
) -> None:
    with_template(base_model, tmp_path / "chat.gguf", CHATML)
    (tmp_path / "Modelfile").write_text("FROM chat.gguf\n")
    result = puna("create", "chat")
    assert "using autodetected template chatml\n" in result.stderr
    assert {TEMPLATE_LAYER, PARAMETERS_LAYER} <= layers(library, "chat").keys()
    assert '"<|im_end|>"' in shown(puna, "chat", "--parameters")


@pytest.mark.parametrize(
    "change", [("<|im_end|>\n{%", "<|im_end|>{%"), ("{{ m.content }}", "{{ m.content | trim }}")]
)
def test_a_template_that_differs_a_little_is_left_alone(
    puna: Puna, base_model: Path, tmp_path: Path, library: Library, change: tuple[str, str]
) -> None:
    with_template(base_model, tmp_path / "chat.gguf", CHATML.replace(*change))
    (tmp_path / "Modelfile").write_text("FROM chat.gguf\n")
    assert "autodetected" not in puna("create", "chat").stderr
    assert layers(library, "chat").keys() == {MODEL_LAYER}
    assert shown(puna, "chat", "--template") == CHATML.replace(*change) + "\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("FROM x\nFOO bar", "Modelfile: line 2, column 1: command must be one of"),
        ("SYSTEM hello", "Modelfile: line 1, column 13: no FROM line"),
        ("FROM ./nothing.gguf", "Modelfile: line 1, column 6: invalid model name"),
        ("FROM {path}\nPARAMETER temperature hot", "invalid float value [hot]"),
        ("FROM {path}\nTEMPLATE {{{{ if }}}}", "Error: template error: template, line 1, column 7: "),
        ("FROM {path}\nPARAMETER foo 1", "unknown parameter 'foo'"),
        ("FROM {path}\nREQUIRES soon", "requires must be a valid semver"),
        ('FROM {path}\nSYSTEM """open', "unexpected EOF"),
        ("FROM /dev/zero", "'zero' is not a regular file"),
        ("FROM Modelfile", "Modelfile"),
    ],
)
def test_what_cannot_be_made_is_one_line_and_leaves_nothing(
    puna: Puna, base_model: Path, tmp_path: Path, home: Path, text: str, message: str
) -> None:
    (tmp_path / "Modelfile").write_text(text.format(path=base_model))
    result = puna("create", "mine")
    assert result.returncode == 1
    assert message in result.stderr.splitlines()[-1]
    assert result.stderr.splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in result.stderr
    assert [*home.rglob("*")] == []


def test_models_that_are_not_there(puna: Puna, home: Path) -> None:
    result = puna("show", "nothing")
    assert (result.returncode, result.stderr) == (1, "Error: model 'nothing:latest' not found\n")
    result = puna("create", "x", "-f", "no/such")
    assert (result.returncode, result.stderr) == (1, "Error: specified Modelfile wasn't found: no/such\n")
    assert [*home.rglob("*")] == []


def test_two_parts_exclude_each_other(puna: Puna, made: Path) -> None:
    assert "exclude each other" in puna("show", "mine", "--json", "--system").stderr


def test_a_models_text_does_not_steer_the_terminal(
    puna: Puna, made: Path, library: Library, environment: dict[str, str]
) -> None:
    name = parse_name("mine")
    model = read_model(library, name).manifest
    with library.session() as session:
        text = session.add(SYSTEM_LAYER, [b"You are \x1b[31mred\xc2\x9b."])
        session.publish(name, image_manifest(model.config, [*model.layers, text]))
    ours, theirs = os.openpty()
    for arguments in ([], ["--system"], ["--modelfile"], ["--json"]):
        command = [sys.executable, "-m", "puna", "show", "mine", *arguments]
        subprocess.run(command, stdin=theirs, stdout=theirs, env=environment, check=True)
        shown = os.read(ours, 1 << 16)
        assert b"You are" in shown
        assert b"\x1b" not in shown and b"\xc2\x9b" not in shown
    os.close(ours)
    os.close(theirs)
