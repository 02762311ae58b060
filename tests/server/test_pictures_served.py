"""Pictures over the whole system: HTTP in three dialects, and `puna run` with a path in the prompt."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.images.pictures import png
from tests.served import Served, serving
from tests.served_models import CHAT, GREEDY, add_model
from tests.tiny_gemma import PICTURE_TOKENS, write_tiny_gemma
from tests.tiny_llama import write_tiny_llama
from tests.tiny_mllama import picture, write_tiny_mllama
from tests.tiny_qwenvl import write_tiny_qwenvl

from puna.create.request import CreateRequest
from puna.services.creation import create
from puna.store.library import Library
from puna.store.manifests import MODEL_LAYER, PROJECTOR_LAYER
from puna.store.name import parse_name

START = "[assistant]"
OPTIONS: dict[str, Any] = {"num_predict": 10, "temperature": 0.0, "num_ctx": 512}


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of a model that sees, of the same with a template of its file, of another, and a blind one."""
    folder = tmp_path_factory.mktemp("seeing")
    library = Library(folder / "models")
    path = write_tiny_mllama(folder / "sees.gguf")
    add_model(library, "sees", path, template=CHAT + START, parameters=GREEDY)
    add_model(library, "jinja", path, parameters=GREEDY)
    gemma = write_tiny_gemma(folder / "gemma.gguf", sees=True)
    add_model(library, "gemma", gemma, template=CHAT + START, parameters=GREEDY)
    write_tiny_gemma(folder / "text.gguf", projector=folder / "mmproj.gguf")
    add_apart(library, "apart", folder / "text.gguf", folder / "mmproj.gguf")
    qwen = write_tiny_qwenvl(folder / "qwen.gguf")
    add_model(library, "qwen", qwen, template=CHAT + START, parameters=GREEDY)
    write_tiny_qwenvl(folder / "qwen-text.gguf", projector=folder / "qwen-mmproj.gguf")
    add_apart(library, "qwen-apart", folder / "qwen-text.gguf", folder / "qwen-mmproj.gguf")
    blind = write_tiny_llama(folder / "blind.gguf")
    add_model(library, "blind", blind, template=CHAT + START, parameters=GREEDY)
    # Half precision decides between two tokens that are nearly alike.
    with serving(folder, folder / "models", PUNA_KV_CACHE_TYPE="f32") as server:
        yield server


def add_apart(library: Library, name: str, *files: Path) -> None:
    """A model of several files, as Ollama's store has those with an image encoder of its own."""
    with library.session() as session:
        layers = [
            session.adopt(layer, path)
            for layer, path in zip((MODEL_LAYER, PROJECTOR_LAYER), files, strict=True)
        ]
        request = CreateRequest(
            parse_name(name),
            files={path.name: layer.content for path, layer in zip(files, layers, strict=True)},
            template=CHAT + START,
            parameters=GREEDY,
        )
        create(request, library, lambda progress: None)


def coded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def chat(server: Served, images: list[bytes], model: str = "sees", text: str = "say") -> Any:
    message = {"role": "user", "content": text, "images": [coded(image) for image in images]}
    body = {"model": model, "messages": [message], "stream": False, "options": OPTIONS}
    return server.post("/api/chat", body)


def said(server: Served, images: list[bytes], **more: str) -> str:
    reply = chat(server, images, **more)
    assert reply.status == 200, reply.body
    text = reply.json["message"]["content"]
    assert isinstance(text, str)
    return text


@pytest.mark.parametrize("model", ["sees", "jinja", "gemma", "apart", "qwen", "qwen-apart"])
def test_answers_depend_on_the_pictures(seeing: Served, model: str) -> None:
    one, other = picture(1), picture(2, (80, 30), "JPEG")
    answers = [said(seeing, images, model=model) for images in ([], [one], [other], [one, other], [one])]
    assert answers[1] == answers[4] and len({*answers}) == 4


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF"])
def test_every_format_is_seen(seeing: Served, format: str) -> None:
    assert said(seeing, [picture(3, format=format)]) != said(seeing, [])


def test_a_picture_is_a_token_and_is_evaluated_once(seeing: Served) -> None:
    without = chat(seeing, [], text="count").json["prompt_eval_count"]
    first, again = (chat(seeing, [picture(4)], text="count").json for _ in range(2))
    assert first["prompt_eval_count"] == again["prompt_eval_count"] == without + 1
    assert again["cached_tokens"] == without and again["message"] == first["message"]


def test_a_picture_of_gemma_takes_several(seeing: Served) -> None:
    with_it, without = (chat(seeing, images, model="gemma").json for images in ([picture(4)], []))
    assert with_it["prompt_eval_count"] == without["prompt_eval_count"] + PICTURE_TOKENS + 4
    message = {"role": "user", "content": "say", "images": [coded(picture(4))] * 8}
    options = {**OPTIONS, "num_ctx": 64}
    reply = seeing.post("/api/chat", {"model": "gemma", "messages": [message], "options": options})
    assert reply.status == 400 and "64" in reply.error and str(64 + 20) in reply.error


@pytest.mark.parametrize("model", ["qwen", "qwen-apart"])
def test_a_picture_of_qwen_takes_as_many_tokens_as_it_is_large(seeing: Served, model: str) -> None:
    small, large = picture(4, (20, 20)), picture(4, (80, 60), "JPEG")
    counts = [
        chat(seeing, images, model=model).json["prompt_eval_count"] for images in ([], [small], [large])
    ]
    assert [count - counts[0] for count in counts] == [0, 2 * 2 + 2, 8 * 6 + 2]
    options = {**OPTIONS, "num_ctx": 96}
    message = {"role": "user", "content": "say", "images": [coded(large)]}
    body = {"model": model, "stream": False, "options": options, "truncate": True}
    assert seeing.post("/api/chat", {**body, "messages": [message]}).status == 200
    # The older turn goes, since both do not fit.
    answer = {"role": "assistant", "content": "yes"}
    reply = seeing.post("/api/chat", {**body, "messages": [message, answer, message]})
    assert reply.status == 200 and reply.json["prompt_eval_count"] == counts[2]
    reply = seeing.post("/api/chat", {**body, "messages": [{**message, "images": [coded(large)] * 2}]})
    assert reply.status == 400 and "96" in reply.error and str(counts[2] + 50) in reply.error


def test_what_has_no_size_for_qwen(seeing: Served) -> None:
    for content, error in (
        (b"AAAA", "invalid image: it is no PNG"),
        (picture(1, (2, 500)), "invalid image: 2 × 500 pixels; the model looks at none of which one side"),
        (picture(1, format="JPEG")[:1000], "invalid image: the JPEG cannot be read"),
    ):
        reply = chat(seeing, [content], model="qwen")
        assert reply.status == 400 and reply.error.startswith(error)
    assert said(seeing, [picture(1)], model="qwen")


@pytest.mark.parametrize("model", ["sees", "qwen"])
def test_the_dialects_agree(seeing: Served, model: str) -> None:
    one = picture(5)
    expected = said(seeing, [one], model=model)
    generated = seeing.post(
        "/api/generate",
        {"model": model, "prompt": "say", "images": [coded(one)], "stream": False, "options": OPTIONS},
    )
    assert generated.json["response"] == expected
    link = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{coded(one)}"}}
    openai = seeing.post(
        "/v1/chat/completions",
        {
            "model": model,
            "messages": [{"role": "user", "content": [link, {"type": "text", "text": "say"}]}],
            "max_tokens": 10,
            "temperature": 0,
        },
    )
    assert openai.json["choices"][0]["message"]["content"] == expected
    source = {"type": "base64", "media_type": "image/png", "data": coded(one)}
    anthropic = seeing.post(
        "/v1/messages",
        {
            "model": model,
            "max_tokens": 10,
            "temperature": 0,
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image", "source": source}, {"type": "text", "text": "say"}],
                }
            ],
        },
    )
    assert "".join(block["text"] for block in anthropic.json["content"]) == expected


def test_raw_prompts_say_where_pictures_stand(seeing: Served) -> None:
    body = {"model": "sees", "raw": True, "images": [coded(picture(6))], "stream": False, "options": OPTIONS}
    texts = ["say [img-0]it", "[img-0]say it", "say it"]
    answers = [seeing.post("/api/generate", {**body, "prompt": text}).json["response"] for text in texts]
    assert answers[1] == answers[2] != answers[0]


def test_the_prompt_is_shown_with_tags(seeing: Served) -> None:
    body = {
        "model": "sees",
        "messages": [
            {"role": "user", "content": "a [img] b", "images": [coded(picture(1)), coded(picture(2))]}
        ],
        "_debug_render_only": True,
    }
    shown = seeing.post("/api/chat", body).json["_debug_info"]
    assert shown["image_count"] == 2
    assert shown["rendered_template"].endswith("[user][img-1]a [img-0] b[assistant]")


def test_a_conversation_with_pictures_in_several_turns(seeing: Served) -> None:
    turns: list[dict[str, Any]] = [
        {"role": "user", "content": "one", "images": [coded(picture(1))]},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "two", "images": [coded(picture(2))]},
    ]
    body = {"model": "sees", "stream": False, "options": OPTIONS}
    answers = [
        seeing.post("/api/chat", {**body, "messages": messages}).json["message"]["content"]
        for messages in (turns, [turns[0], turns[1], {**turns[2], "images": turns[0]["images"]}], turns)
    ]
    assert answers[0] == answers[2] != answers[1]


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"AAAA", "invalid image: it is no PNG, JPEG, WebP or GIF"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "invalid image: it is no PNG"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "invalid image: it is no PNG"),
        (png(65535, 65535), "invalid image: 65535 × 65535 pixels are too many"),
        (picture(1)[:20], "invalid image: the PNG ends within its header"),
        (picture(1)[:300], "invalid image: the PNG cannot be read"),
    ],
)
def test_what_is_no_picture_is_a_clear_error(seeing: Served, content: bytes, error: str) -> None:
    reply = chat(seeing, [content])
    assert reply.status == 400 and reply.error.startswith(error)
    assert said(seeing, [picture(1)])


def test_too_many_pictures(seeing: Served) -> None:
    reply = chat(seeing, [picture(1)] * 65)
    assert (reply.status, reply.error) == (400, "there are 65 images; at most 64 are allowed")
    reply = chat(seeing, [picture(n, (90, 90)) for n in range(40)])
    assert reply.status == 400 and "stand together; there is room for" in reply.error
    assert said(seeing, [picture(1)])


def test_models_that_do_not_see(seeing: Served) -> None:
    reply = chat(seeing, [picture(1)], model="blind")
    assert (reply.status, reply.error) == (400, '"blind" does not support vision')
    shown = {
        name: seeing.post("/api/show", {"model": name}).json["capabilities"] for name in ("sees", "blind")
    }
    assert "vision" in shown["sees"] and "vision" not in shown["blind"]


def test_run_sees_a_picture_by_its_path(seeing: Served, tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(picture(7))
    expected = said(seeing, [picture(7)])

    def run(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PUNA_")}
        return subprocess.run(
            [sys.executable, "-m", "puna", "run", "sees", *arguments, "--num-predict", "10"],
            capture_output=True,
            encoding="utf-8",
            env={**environment, "HOME": str(tmp_path), **variables},
            cwd=tmp_path,
            timeout=60,
        )

    for variables in (
        {"PUNA_HOST": seeing.url, "PUNA_MODELS": str(tmp_path / "none")},
        {"PUNA_MODELS": str(seeing.store)},
    ):
        found = run("./cat.png say", **variables)
        assert (found.returncode, found.stdout) == (0, f"{expected}\n"), found.stderr
        assert "Added image './cat.png'" in found.stderr
        (tmp_path / "broken.png").write_bytes(picture(7)[:200])
        broken = run("./broken.png say", **variables)
        assert broken.returncode == 1 and "invalid image: the PNG cannot be read" in broken.stderr
        assert "Traceback" not in broken.stderr


def test_the_server_itself_decodes_nothing(seeing: Served) -> None:
    said(seeing, [picture(8)])
    mapped = Path(f"/proc/{seeing.pid}/maps").read_text()
    assert "numpy" not in mapped and "PIL" not in mapped
    assert json.loads(seeing.get("/api/ps").body)["models"]
