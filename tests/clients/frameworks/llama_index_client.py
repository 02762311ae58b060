"""What llama-index gets, with its packages for Ollama's models and vectors."""

import json
import sys
from typing import Any

from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.ollama import OllamaEmbedding
from llama_index.llms.ollama import Ollama
from pydantic import BaseModel, ConfigDict

URL = sys.argv[1]
HI = [ChatMessage(role="user", content="hi")]


class Reply(BaseModel):
    """What is asked for."""

    model_config = ConfigDict(extra="forbid")
    ok: bool


def weather(city: str) -> str:
    """The weather of a city."""
    return f"rain in {city}"


def calls_of(response: Any) -> list[Any]:
    """The names and arguments of the calls in an answer."""
    return [[call.tool_name, call.tool_kwargs] for call in calls.get_tool_calls_from_response(response)]


TOOLS = [FunctionTool.from_defaults(fn=weather)]
said, calls, thinks = (Ollama(model=name, base_url=URL) for name in ("said", "calls", "thinks"))
vectors = OllamaEmbedding(model_name="encodes", base_url=URL)
whole = said.chat(HI)
called = calls.chat_with_tools(TOOLS, chat_history=HI)
((name, arguments),) = calls_of(called)
result = ChatMessage(role="tool", content=weather(**arguments), additional_kwargs={"tool_call_id": name})
*_, streamed = calls.stream_chat_with_tools(TOOLS, chat_history=HI)
(thought, _) = thinks.chat(HI, think=True).message.blocks
print(
    json.dumps(
        {
            "chat": whole.message.content,
            "tokens": [whole.raw["prompt_eval_count"], whole.raw["eval_count"]],
            "stream": [piece.delta for piece in said.stream_chat(HI) if piece.delta],
            "text": said.complete("hi").text,
            "call": [[name, arguments]],
            "call in pieces": calls_of(streamed),
            "after the call": calls.chat_with_tools(
                TOOLS, chat_history=[*HI, called.message, result]
            ).message.content,
            "schema": said.as_structured_llm(Reply).chat(HI).raw.model_dump(),
            "thinking": thought.content,
            "vectors": [
                vectors.get_query_embedding("hi"),
                *vectors.get_text_embedding_batch(["hi", "there"]),
            ],
        }
    )
)
