"""The server's description of itself: all of what there is, and nothing else."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator
from starlette.applications import Starlette
from tests.served import Served, serving

from puna.options import ServerSettings
from puna.server.app import build_app, build_state
from puna.server.errors import STATUSES
from puna.server.middleware.keys import OPEN
from puna.server.routing import DescribedRoute
from puna.services.options import NAMES
from puna.store.library import Library

KEY = "a-key-of-many-letters-1"
# What the server refuses itself, before an error of the table can come about.
REFUSED = {400, 401, 403, 404, 408, 413, 415, 429, 503}


def application() -> Starlette:
    return build_app(build_state(ServerSettings(metrics=True), Library(Path("/nowhere"))))


ROUTES = [route for route in application().routes if isinstance(route, DescribedRoute)]
READING = [route for route in ROUTES if route.signature.body not in (None, bytes)]


@pytest.fixture(scope="module")
def server(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("described"), served.store, PUNA_METRICS="1") as found:
        yield found


@pytest.fixture(scope="module")
def document(server: Served) -> Any:
    reply = server.get("/openapi.json")
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json; charset=utf-8")
    return reply.json


def operations(document: Any) -> dict[tuple[str, str], Any]:
    return {
        (path, method): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def test_every_route_is_described_and_nothing_else(document: Any) -> None:
    assert len(ROUTES) == len(application().routes)
    expected = set()
    for route in ROUTES:
        # HEAD is described where it is not the shadow of GET.
        methods = {method.lower() for method in route.methods or ()}
        methods -= {"head"} if "get" in methods else set()
        expected |= {(re.sub(r"\{(\w+):path\}", r"{\1}", route.path), method) for method in methods}
    assert operations(document).keys() == expected


def test_statuses_are_those_that_errors_can_have(document: Any) -> None:
    told = {int(status) for one in operations(document).values() for status in one["responses"]}
    assert told - {200, 201} <= {*STATUSES.values(), *REFUSED}
    assert {*STATUSES.values(), *REFUSED} <= told


def test_what_is_pointed_to_is_there_and_a_schema(document: Any) -> None:
    schemas = document["components"]["schemas"]
    pointers = re.findall(r'"#/components/schemas/([^"]*)"', json.dumps(document))
    assert {*pointers} == schemas.keys()
    for name, schema in schemas.items():
        Draft202012Validator.check_schema(schema)
        assert name == "Options" or re.fullmatch(r"(native|openai|anthropic)\.\w+", name), name


def test_operations_have_names_of_their_own(document: Any) -> None:
    found = operations(document).values()
    assert len({one["operationId"] for one in found}) == len(found)
    assert all(one["summary"] for one in found)


def test_every_field_of_a_body_is_described(document: Any) -> None:
    for route in READING:
        method = next(iter(route.methods or ())).lower()
        path = re.sub(r"\{(\w+):path\}", r"{\1}", route.path)
        body = document["paths"][path][method]["requestBody"]["content"]["application/json"]["schema"]
        schema = document["components"]["schemas"][body["$ref"].rpartition("/")[2]]
        names = {field.encode_name for field in msgspec.structs.fields(route.signature.body)}
        assert schema["properties"].keys() == names


@pytest.mark.parametrize("route", READING, ids=lambda route: route.path)
def test_a_body_is_read_into_the_type_that_is_described(server: Served, route: DescribedRoute) -> None:
    """A field of a type that it cannot have is refused, and named; so is no other type's field."""
    method = next(iter(route.methods or ()))
    fields = [
        field.encode_name
        for field in msgspec.structs.fields(route.signature.body)
        if field.type in (str, bool, int, list[str], dict[str, str])
    ]
    assert fields
    for name in fields:
        reply = server.ask(method, route.path, {name: 0.5})
        assert reply.status == 400 and f"$.{name}" in reply.body.decode(), (route.path, name, reply.body)


def test_options_are_those_that_are_read(document: Any) -> None:
    described = document["components"]["schemas"]["Options"]["properties"]
    assert described.keys() == {*NAMES}
    assert {"type": "number", "minimum": 0.0, "maximum": 1.0} in described["top_p"]["anyOf"]


def test_null_is_allowed_where_a_field_may_be_left_out(document: Any) -> None:
    for route in READING:
        name = f"{route.signature.body.__name__}"
        (schema,) = [
            one
            for key, one in document["components"]["schemas"].items()
            if key.endswith(f".{name}") and key.partition(".")[0] == dialect(route)
        ]
        nothing = dict.fromkeys(schema["properties"])
        resolver = {**document, "$ref": f"#/components/schemas/{dialect(route)}.{name}"}
        Draft202012Validator(resolver).validate(nothing)


def dialect(route: DescribedRoute) -> str:
    if route.path.startswith("/v1/messages"):
        return "anthropic"
    return "openai" if route.path.startswith("/v1/") else "native"


def test_two_dialects_of_one_path_are_both_told(document: Any) -> None:
    models = document["paths"]["/v1/models"]["get"]
    answers = models["responses"]["200"]["content"]["application/json"]["schema"]["anyOf"]
    assert {one["$ref"].rpartition("/")[2] for one in answers} == {
        "anthropic.PageDocument",
        "openai.ModelsDocument",
    }
    assert {one["name"] for one in models["parameters"]} == {"limit", "after_id", "before_id"}


def test_every_field_of_an_answer_is_described(server: Served, document: Any) -> None:
    asked = {
        "/api/show": ("native.Shown", {"model": "told"}),
        "/v1/completions": (
            "openai.CompletionDocument",
            {"model": "said", "prompt": "Hi!", "max_tokens": 2, "logprobs": 1, "echo": True},
        ),
        "/v1/rerank": (
            "openai.RerankDocument",
            {"model": "ranks", "query": "a", "documents": ["a", "b c"], "return_documents": True},
        ),
    }
    # No more than what is described.
    closed = {name: {**one, "additionalProperties": False} for name, one in schemas(document).items()}
    for path, (name, body) in asked.items():
        reply = server.post(path, body)
        assert reply.status == 200, reply.body
        resolver = {"components": {"schemas": closed}, "$ref": f"#/components/schemas/{name}"}
        Draft202012Validator(resolver).validate(reply.json)


def schemas(document: Any) -> dict[str, Any]:
    found: dict[str, Any] = document["components"]["schemas"]
    return found


def test_with_keys_it_needs_one_and_says_so(served: Served, tmp_path: Path) -> None:
    """D13: what the server can do is told to those who may use it."""
    with serving(tmp_path, served.store, PUNA_API_KEYS=KEY) as server:
        assert server.get("/openapi.json").status == 401
        assert server.ask("GET", "/openapi.json", None, {"Host": "evil.example"}).status == 403
        document = server.ask("GET", "/openapi.json", None, {"x-api-key": KEY}).json
    keyed = operations(document)
    assert {path for path, method in keyed if "security" not in keyed[path, method]} == OPEN
    assert {"bearer": ["manage"]} in keyed["/api/pull", "post"]["security"]
    assert {"bearer": ["inference"]} in keyed["/api/chat", "post"]["security"]
    assert "/metrics" not in document["paths"]


def test_it_is_made_once_and_tells_nothing_of_the_machine(server: Served, document: Any) -> None:
    body = server.get("/openapi.json").body
    assert json.loads(body) == document
    assert not re.search(r"/home/|/root|/tmp|puna\.server|site-packages", body.decode())
