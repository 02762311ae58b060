"""What goes over the wire, as Ollama's servers write it."""

from typing import Any

from tests.client.played_server import Played, document, lines

AT = "2026-11-26T10:00:00.123456789Z"
TIMES = {
    "total_duration": 5_000_000_000,
    "load_duration": 1_000_000_000,
    "prompt_eval_count": 26,
    "prompt_eval_duration": 500_000_000,
    "eval_count": 3,
    "eval_duration": 60_000_000,
}


def chat_piece(content: str, **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": content, **more}
    return {"model": "tiny", "created_at": AT, "message": message, "done": False}


def generate_piece(response: str, **more: Any) -> dict[str, Any]:
    return {"model": "tiny", "created_at": AT, "response": response, "done": False, **more}


CHAT_END = {**chat_piece(""), "done": True, "done_reason": "stop", **TIMES}
GENERATE_END = {**generate_piece(""), "done": True, "done_reason": "stop", "context": [1, 2], **TIMES}

CHAT: Played = lines(chat_piece("", thinking="Hmm"), chat_piece("Bl"), chat_piece("ue"), CHAT_END)
CHAT_WHOLE: Played = document(
    {**CHAT_END, "message": {"role": "assistant", "content": "Blue", "thinking": "Hmm"}}
)
GENERATE: Played = lines(generate_piece("Bl"), generate_piece("ue"), GENERATE_END)
GENERATE_WHOLE: Played = document({**GENERATE_END, "response": "Blue"})
PULL: Played = lines(
    {"status": "pulling manifest"},
    {"status": "pulling aabbccddeeff", "digest": "sha256:aa", "total": 100},
    {"status": "pulling aabbccddeeff", "digest": "sha256:aa", "total": 100, "completed": 100},
    {"status": "success"},
)
TAGS: Played = document(
    {
        "models": [
            {
                "name": "tiny:latest",
                "model": "tiny:latest",
                "modified_at": "2026-11-26T11:00:00.5+01:00",
                "size": 4_700_000_000,
                "digest": "ab" * 32,
                "details": {
                    "parent_model": "",
                    "format": "gguf",
                    "family": "llama",
                    "families": None,
                    "parameter_size": "8B",
                    "quantization_level": "Q4_K_M",
                },
                "capabilities": ["completion"],
                "a_field_of_the_future": {"x": 1},
            }
        ]
    }
)
