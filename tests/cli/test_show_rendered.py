"""`puna show --rendered`: the prompt that a conversation becomes, as a user sees it."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from tests.scripted_llama import write_scripted_llama

from puna.gguf import GGUFFile
from puna.gguf.writer import GGUFWriter
from puna.services.rendering import EXAMPLE, prompt_text
from puna.template.known import template_text
from puna.tokenizer import load_tokenizer

Puna = Callable[..., "CompletedProcess[str]"]

TOOLS_TEMPLATE = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}"
    "<{{ m.role }}>{{ m.reasoning_content or '' }}{{ m.content }}{{ m.tool_calls or '' }}{{ m.name }}"
    "{% endfor %}"
    "{% if enable_thinking is defined %}{{ enable_thinking }}{{ reasoning_effort }}{% endif %}"
)
EXAMPLE_IN_CHAT_MODEL = (
    "<s>[system]You are a helpful assistant.</s>[user]Why is the sky blue?</s>"
    "[assistant]Air scatters blue light more than red.</s>[user]And at sunset?</s>[assistant]"
)


def rendered(puna: Puna, *arguments: str | Path) -> str:
    result = puna("show", "--rendered", *arguments)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def with_template(source: Path, path: Path, template: str, **more: bool) -> Path:
    with GGUFFile.open(source) as file, GGUFWriter(path) as writer:
        writer.copy_metadata(file.metadata)
        writer.add("tokenizer.chat_template", template)
        for key, value in more.items():
            writer.add(key, value)
        for name, tensor in file.tensors.items():
            writer.add_tensor(name, tensor.type, tensor.shape, bytes(file.tensor_bytes(name)))
    return path


def conversation(tmp_path: Path, **document: object) -> Path:
    path = tmp_path / "conversation.json"
    path.write_text(json.dumps(document))
    return path


def make(puna: Puna, tmp_path: Path, modelfile: str) -> None:
    (tmp_path / "Modelfile").write_text(modelfile)
    result = puna("create", "mine")
    assert result.returncode == 0, result.stderr


def test_a_small_conversation_is_shown_exactly(puna: Puna, chat_model: Path) -> None:
    assert rendered(puna, chat_model) == EXAMPLE_IN_CHAT_MODEL


def test_the_text_is_that_of_the_tokens_a_run_evaluates(chat_model: Path) -> None:
    with GGUFFile.open(chat_model) as file:
        tokenizer = load_tokenizer(file.metadata)
        ids = tokenizer.encode(prompt_text(chat_model, None, EXAMPLE), parse_special=True)
    assert tokenizer.decode(ids, render_special=True) == EXAMPLE_IN_CHAT_MODEL


def test_a_conversation_of_ones_own(puna: Puna, base_model: Path, tmp_path: Path) -> None:
    model = with_template(base_model, tmp_path / "tools.gguf", TOOLS_TEMPLATE)
    call = {"function": {"name": "f", "arguments": {"a": "é"}}}
    file = conversation(
        tmp_path,
        messages=[
            {"role": "user", "content": "</s> 日本\n"},
            {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": [call]},
            {"role": "tool", "content": "1", "tool_name": "f"},
        ],
        tools=[{"type": "function", "function": {"name": "f", "description": "<é>"}}],
        think="high",
    )
    assert rendered(puna, model, file) == (
        '[{"type": "function", "function": {"name": "f", "description": "<é>"}}]'
        f"<user></s> 日本\n<assistant>hm[{call}]<tool>1fTruehigh"
    )


def test_the_models_own_go_template_comes_first(puna: Puna, chat_model: Path, tmp_path: Path) -> None:
    template = "{{ range .Messages }}({{ .Role }}) {{ .Content }}{{ end }}{{ .Think }}{{ .Response }}"
    make(puna, tmp_path, f'FROM {chat_model}\nTEMPLATE """{template}"""\n')
    assert rendered(puna, "mine").startswith("(system) You are a helpful assistant.(user) Why")
    file = conversation(tmp_path, messages=[{"role": "user", "content": "a"}], think=True)
    assert rendered(puna, "mine", file) == "(user) atrue"


def test_bos_is_shown_once_where_the_model_wants_it(puna: Puna, base_model: Path, tmp_path: Path) -> None:
    wants = {"tokenizer.ggml.add_bos_token": True}
    bare = with_template(base_model, tmp_path / "bare.gguf", "{{ messages[0].content }}", **wants)
    assert rendered(puna, bare) == "<s>You are a helpful assistant."
    written = with_template(base_model, tmp_path / "bos.gguf", "{{ bos_token }}a", **wants)
    assert rendered(puna, written) == "<s>a"


def test_the_models_own_messages_come_before_the_conversation(
    puna: Puna, chat_model: Path, tmp_path: Path
) -> None:
    make(puna, tmp_path, f"FROM {chat_model}\nSYSTEM Be brief.\nMESSAGE user a\nMESSAGE assistant b\n")
    file = conversation(tmp_path, messages=[{"role": "user", "content": "c"}])
    expected = "<s>[system]Be brief.</s>[user]a</s>[assistant]b</s>[user]c</s>[assistant]"
    assert rendered(puna, "mine", file) == expected


def test_without_a_template_a_model_gets_the_last_text(puna: Puna, base_model: Path) -> None:
    assert rendered(puna, base_model) == "And at sunset?"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not a conversation in JSON"),
        ("[]", "Expected `object`, got `array`"),
        ('{"messages": {}}', "Expected `array`, got `object` - at `$.messages`"),
        ('{"messages": [], "mesages": []}', "unknown field `mesages`"),
        ('{"messages": [1]}', "at `$.messages[0]`"),
        ('{"messages": []}', "a conversation needs at least one message"),
        ('{"messages": [{"role": "user", "content": "a"}], "think": 1.5}', "at `$.think`"),
        ("[" * 100_000, "is not a conversation in JSON"),
        ('{"messages": [' + '{"a": ' * 900 + "1" + "}" * 900 + "]}", "nested more than"),
        ("\xff", "is not a conversation in JSON"),
        (" " * (17 << 20), "longer than 16 MiB"),
    ],
)
def test_what_is_no_conversation_is_one_clear_line(
    puna: Puna, chat_model: Path, tmp_path: Path, content: str, message: str
) -> None:
    file = tmp_path / "conversation.json"
    file.write_text(content, encoding="latin-1")
    result = puna("show", chat_model, file, "--rendered")
    assert (result.returncode, result.stdout) == (1, "")
    assert message in result.stderr
    assert result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1


def test_files_and_options_that_do_not_go_together(puna: Puna, chat_model: Path, tmp_path: Path) -> None:
    assert "goes with --rendered only" in puna("show", "mine", "x.json").stderr
    assert "exclude each other" in puna("show", "mine", "--rendered", "--json").stderr
    missing = puna("show", chat_model, "--rendered", tmp_path / "none.json")
    assert missing.returncode == 1 and "none.json: No such file" in missing.stderr


def test_a_template_that_refuses_is_an_error(puna: Puna, base_model: Path, tmp_path: Path) -> None:
    model = with_template(base_model, tmp_path / "no.gguf", "{{ raise_exception('never\nmind') }}")
    result = puna("show", model, "--rendered")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "Error: the model's chat template refuses this conversation: never mind\n"


def test_half_a_character_is_written_as_the_tokenizer_reads_it(
    puna: Puna, base_model: Path, tmp_path: Path
) -> None:
    model = with_template(base_model, tmp_path / "half.gguf", "a{{ '\\ud800' }}b{{ '\\ud83d\\ude00' }}")
    assert rendered(puna, model) == "a\ufffdb😀"


def test_a_model_from_the_package_index(fetched: Callable[[str], Path], smollm2_path: Path) -> None:
    text = prompt_text(smollm2_path, None, EXAMPLE)
    assert text.startswith("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n")
    assert text.endswith("<|im_start|>user\nAnd at sunset?<|im_end|>\n<|im_start|>assistant\n")


def test_a_family_that_the_tokens_tell_is_shown(puna: Puna, tmp_path: Path) -> None:
    path = write_scripted_llama(
        tmp_path / "model.gguf",
        ["a"],
        control=["<|im_end|>", "<|im_start|>"],
        metadata={"tokenizer.ggml.eos_token_id": 3},
    )
    (tmp_path / "Modelfile").write_text(f"FROM {path}\n")
    assert puna("create", "mine").returncode == 0
    assert re.search(r"\n +template +chatml \(by its tokens\)\n", puna("show", "mine").stdout)
    assert puna("show", "mine", "--template").stdout == template_text("chatml")
    assert "<|im_start|>user\nWhy is the sky blue?<|im_end|>" in puna("show", "mine", "--rendered").stdout
