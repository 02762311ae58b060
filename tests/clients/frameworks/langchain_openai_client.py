"""What langchain-openai gets."""

import json
import sys

from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from pydantic import BaseModel, ConfigDict

PLACE = {"base_url": f"{sys.argv[1]}/v1", "api_key": "none"}


class Reply(BaseModel):
    """What is asked for."""

    model_config = ConfigDict(extra="forbid")
    ok: bool


def weather(city: str) -> str:
    """The weather of a city."""
    return f"rain in {city}"


TOOL = tool(weather)
said, calls = (ChatOpenAI(model=name, **PLACE) for name in ("said", "calls"))
responses = ChatOpenAI(model="thinks", use_responses_api=True, **PLACE)
# Otherwise it sends tokens of OpenAI's own vocabulary.
vectors = OpenAIEmbeddings(model="encodes", check_embedding_ctx_length=False, **PLACE)
whole = said.invoke("hi")
called = calls.bind_tools([TOOL]).invoke("hi")
result = TOOL.invoke(called.tool_calls[0])
forced = calls.bind_tools([TOOL], tool_choice="weather").invoke("hi")
streamed, *more = calls.bind_tools([TOOL]).stream("hi")
for piece in more:
    streamed += piece
response = responses.invoke("hi")
(thought,) = (block for block in response.content_blocks if block["type"] == "reasoning")
print(
    json.dumps(
        {
            "chat": whole.content,
            "tokens": [whole.usage_metadata["input_tokens"], whole.usage_metadata["output_tokens"]],
            "stream": [piece.content for piece in said.stream("hi") if piece.content],
            "text": OpenAI(model="said", **PLACE).invoke("hi<|go|>"),
            "call": [[call["name"], call["args"]] for call in called.tool_calls],
            "call in pieces": [[call["name"], call["args"]] for call in streamed.tool_calls],
            "after the call": calls.bind_tools([TOOL]).invoke([("user", "hi"), called, result]).content,
            "forced": [call["name"] for call in forced.tool_calls],
            "schema": said.with_structured_output(Reply).invoke("hi").model_dump(),
            "thinking": thought["reasoning"],
            "response": response.text,
            "response in pieces": [piece.text for piece in responses.stream("hi") if piece.text],
            "vectors": [vectors.embed_query("hi"), *vectors.embed_documents(["hi", "there"])],
        }
    )
)
