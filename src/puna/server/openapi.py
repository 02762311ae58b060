"""The server's description of itself, in OpenAPI 3.1 (spec.openapis.org/oas/v3.1), made from its routes.

Nothing is written twice: bodies are described by the types that they are read into, answers by the types that
are written, statuses by the table of errors. It is made when somebody asks for it first.
"""

import asyncio
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeAlias

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from puna import __version__
from puna.options import MANAGE
from puna.server.dialects import ANTHROPIC, SpokenRoute
from puna.server.errors import CLIENT_GONE
from puna.server.http import JSON, NDJSON
from puna.server.middleware.keys import OPEN
from puna.server.routing import DescribedRoute, Signature, route
from puna.server.sse import EVENT_STREAM
from puna.services.options import RANGE_OF, described_options, described_range

Schema: TypeAlias = dict[str, Any]

PATH = "/openapi.json"
_VERSION = "3.1.1"
_JSON, _EVENTS = (media.partition(";")[0] for media in (JSON, EVENT_STREAM))
_PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}", re.ASCII)
_NULL = {"type": "null"}
# What can befall any request, one with a body, one that asks a model, one that names something, one that
# changes which models there are.
_ALWAYS = (400, 401, 403, 429, 500, 503)
_READING = (408, 413, 415)
_ASKING = (CLIENT_GONE,)
_NAMING = (404,)
_MANAGING = (502, 507)
_KEYS = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a group of routes speaks.

    Attributes:
        name: comes before the names of its types.
        error: the type of its errors.
        query: a Struct of the parameters that all its routes with a body have; None for none.
        end: the data of an event that ends a stream and is no JSON; empty for none.
    """

    name: str
    error: Any
    query: Any = None
    end: str = ""


def description_route(dialects: Mapping[str, Dialect], *, keys: bool) -> DescribedRoute:
    """The route of the description.

    Args:
        dialects: by the prefix of their paths.
        keys: whether requests need a key.
    """
    made: list[bytes] = []

    async def told(request: Request) -> Response:
        """This description."""
        if not made:
            # Tens of milliseconds.
            routes = request.app.routes
            made.append(await asyncio.to_thread(_encoded, routes, dialects, keys))
        return Response(made[0], media_type=JSON)

    return route(PATH, told, "GET", opens="", answer=dict[str, Any])


def _encoded(routes: Sequence[BaseRoute], dialects: Mapping[str, Dialect], keys: bool) -> bytes:
    return msgspec.json.encode(describe(routes, dialects, keys=keys))


def describe(routes: Iterable[BaseRoute], dialects: Mapping[str, Dialect], *, keys: bool) -> Schema:
    """The document; see `description_route`."""
    described = [one for one in routes if isinstance(one, DescribedRoute)]
    schemas = {"Options": described_options()}
    paths: dict[str, Schema] = {}
    for name, dialect in sorted({one.name: one for one in dialects.values()}.items()):
        own = [one for one in described if _dialect(one, dialects).name == name]
        writer = _Writer(dialect, own, keys)
        schemas |= writer.components
        for one in own:
            operations = paths.setdefault(_PARAMETER.sub(r"{\1}", one.path), {})
            for method in _methods(one):
                operations[method] = _merged(operations.get(method), writer.operation(one, method))
    return {
        "openapi": _VERSION,
        "info": {"title": "Puna", "version": __version__},
        "paths": dict(sorted(paths.items())),
        "components": {"schemas": schemas, "securitySchemes": _KEYS if keys else {}},
    }


def _dialect(one: DescribedRoute, dialects: Mapping[str, Dialect]) -> Dialect:
    path = ANTHROPIC if isinstance(one, SpokenRoute) else one.path
    return dialects[max((prefix for prefix in dialects if path.startswith(prefix)), key=len)]


def _methods(one: DescribedRoute) -> list[str]:
    """Its methods; HEAD where it is not the shadow of GET."""
    methods = {method.lower() for method in one.methods or ()}
    return sorted(methods - {"head"} if "get" in methods else methods)


def _merged(first: Schema | None, second: Schema) -> Schema:
    """One operation of two that share a path: what either reads and answers."""
    if first is None:
        return second
    answers = {
        status: _either(first["responses"].get(status), second["responses"].get(status))
        for status in sorted({*first["responses"], *second["responses"]})
    }
    known = {parameter["name"] for parameter in first["parameters"]}
    parameters = [one for one in second["parameters"] if one["name"] not in known]
    return {**first, "parameters": [*first["parameters"], *parameters], "responses": answers}


def _either(first: Schema | None, second: Schema | None) -> Schema:
    if first is None or second is None:
        return first or second or {}
    content = {
        media: {"schema": {"anyOf": [one["content"][media]["schema"] for one in (first, second)]}}
        for media in first["content"]
    }
    return {**first, "content": content}


class _Writer:
    """Describes the routes of a dialect.

    Attributes:
        components: the schemas that the descriptions point to.
    """

    def __init__(self, dialect: Dialect, routes: Sequence[DescribedRoute], keys: bool) -> None:
        self._dialect = dialect
        self._keys = keys
        signatures = [one.signature for one in routes]
        bodies = [one.body for one in signatures if one.body not in (None, bytes)]
        answers = [kind for one in signatures for kind in (one.answer, one.lines, one.events)]
        told = [kind for kind in (*answers, dialect.error) if kind not in (None, str)]
        self._bodies, read = _schemas(bodies, dialect.name)
        self._answers, written = _schemas(told, dialect.name)
        self.components = {**{name: _as_read(schema) for name, schema in read.items()}, **written}

    def operation(self, one: DescribedRoute, method: str) -> Schema:
        """What the route does with a method."""
        found: Schema = {
            "operationId": re.sub(r"\W+", "_", f"{method}{one.path}", flags=re.ASCII).strip("_"),
            "summary": (one.endpoint.__doc__ or "").strip().partition("\n")[0],
            "tags": [self._dialect.name],
            "parameters": self._parameters(one),
            "responses": self._responses(one, method),
        }
        if one.signature.body is not None:
            found["requestBody"] = {"required": True, "content": self._body(one.signature)}
        if self._keys and one.path not in OPEN:
            found["security"] = [{name: [one.opens] if one.opens else []} for name in _KEYS]
        return found

    def _body(self, signature: Signature) -> Schema:
        if signature.body is bytes:
            return {"application/octet-stream": {"schema": {}}}
        return {_JSON: {"schema": self._bodies[signature.body]}}

    def _parameters(self, one: DescribedRoute) -> list[Schema]:
        places = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
            for name in _PARAMETER.findall(one.path)
        ]
        queries = [one.signature.query, self._dialect.query if one.signature.body is not None else None]
        asked = [
            {"name": name, "in": "query", "schema": schema}
            for query in queries
            if query is not None
            for name, schema in msgspec.json.schema_components([query])[1][query.__name__][
                "properties"
            ].items()
        ]
        return [*places, *asked]

    def _responses(self, one: DescribedRoute, method: str) -> Schema:
        good = {"description": "What was asked for.", **self._content(one.signature)}
        error = {"content": {_JSON: {"schema": self._answers[self._dialect.error]}}}
        refusals = {
            str(status): {"description": _phrase(status), **({} if method == "head" else error)}
            for status in _statuses(one)
        }
        return {
            **{str(status): good for status in ((200, 201) if one.signature.made else (200,))},
            **refusals,
        }

    def _content(self, signature: Signature) -> Schema:
        kinds = {_JSON: signature.answer, NDJSON: signature.lines, _EVENTS: signature.events}
        if signature.answer is str:
            return {"content": {"text/plain": {"schema": {"type": "string"}}}}
        content = {
            media: {"schema": self._schema(media, kind)} for media, kind in kinds.items() if kind is not None
        }
        return {"content": content} if content else {}

    def _schema(self, media: str, kind: Any) -> Schema:
        """The schema of a document, or of each of a stream's, which may end with an error."""
        found = self._answers[kind]
        if media == _JSON:
            return found
        either = {"anyOf": [found, self._answers[self._dialect.error]]}
        if media == NDJSON:
            return either
        told = {"type": "string", "contentMediaType": _JSON, "contentSchema": either}
        return _event({"anyOf": [told, {"const": self._dialect.end}]} if self._dialect.end else told)


def _event(data: Schema) -> Schema:
    """The schema of a server-sent event, as OpenAPI has it from 3.2 on."""
    return {
        "type": "object",
        "properties": {"event": {"type": "string"}, "data": data},
        "required": ["data"],
    }


def _statuses(one: DescribedRoute) -> list[int]:
    """Of the errors that there can be."""
    reads, names = one.signature.body is not None, "{" in one.path
    asks = reads and one.opens != MANAGE
    groups = [(_READING, reads), (_ASKING, asks), (_NAMING, reads or names), (_MANAGING, one.opens == MANAGE)]
    return sorted({*_ALWAYS, *(status for group, holds in groups if holds for status in group)})


def _phrase(status: int) -> str:
    return "The request was canceled." if status == CLIENT_GONE else f"{HTTPStatus(status).phrase}."


def _schemas(kinds: Sequence[Any], group: str) -> tuple[dict[Any, Schema], dict[str, Schema]]:
    """The types' schemas, and those that these point to; both by name."""
    found, components = msgspec.json.schema_components(
        kinds, ref_template=f"#/components/schemas/{group}.{{name}}"
    )
    return dict(zip(kinds, found, strict=True)), {f"{group}.{name}": one for name, one in components.items()}


def _as_read(schema: Schema) -> Schema:
    """The schema of a body's type: null counts as left out, and options have their ranges."""
    required = schema.get("required", ())
    fields = {name: _in_range(name, one) for name, one in schema.get("properties", {}).items()}
    return {
        **schema,
        "properties": {name: one if name in required else _or_null(one) for name, one in fields.items()},
    }


def _in_range(name: str, schema: Schema) -> Schema:
    if name not in RANGE_OF:
        return schema
    limits = described_range(RANGE_OF[name])
    kinds = [{**limits, **one} if one != _NULL else one for one in schema.get("anyOf", ())]
    return {**schema, "anyOf": kinds} if kinds else {**limits, **schema}


def _or_null(schema: Schema) -> Schema:
    own = {name: value for name, value in schema.items() if name != "default"}
    default = {name: value for name, value in schema.items() if name == "default"}
    if not own or _NULL in own.get("anyOf", ()):
        return schema
    return {"anyOf": [*own.get("anyOf", [own]), _NULL], **default}
