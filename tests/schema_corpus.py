"""JSON Schemas for tests, made from a seed, and a small BPE vocabulary trained on JSON.

The schemas use what a grammar enforces in full, so a text that follows the grammar must also satisfy the
schema. Properties stand in alphabetical order.
"""

import json
import random
from collections.abc import Callable
from typing import Any

Schema = dict[str, Any]

NAMES = sorted(
    {"age", "city", "code", "country", "data", "id", "items", "kind", "name", "note", "tags", "x", "é y"}
)
WORDS = [
    "red",
    "green",
    "blue",
    "on",
    "off",
    "north",
    "south",
    'quo"te',
    "back\\slash",
    "naïve",
    "😀",
    "a b",
    "",
]
PATTERNS = {
    "^[a-z]{2,6}$": ["ab", "zzzzzz"],
    "^[A-Z][a-z]+( [A-Z][a-z]+)?$": ["Ada", "Ada Lovelace"],
    r"^\d{3}-\d{4}$": ["555-0199"],
    "^(yes|no|maybe)$": ["yes", "maybe"],
    "^#[0-9a-f]{6}$": ["#00ff7f"],
    "[0-9]": ["7", "room 101, left"],
    "^x|y$": ["x", "xylophone", "only"],
    r"^[^\s\"]{1,8}$": ["naïve", "a/b\\c"],
}
"""Patterns, each with texts that it finds something in."""

FORMATS = {
    "date": "2024-02-29",
    "uuid": "123e4567-e89b-12d3-a456-426614174000",
    "ipv4": "192.0.2.255",
    "email": "ada.l@example.org",
    "date-time": "2024-02-29T23:59:59.5Z",
    "time": "12:00:00+02:00",
}
"""Formats, each with a text of it."""

DEEPEST = 4


class Generator:
    """Draws schemas; the same seed gives the same ones."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._definitions: dict[str, Schema] = {}

    def document(self) -> Schema:
        """A schema with its definitions; an object at the top most of the time."""
        self._definitions = {}
        draw = self._random.random()
        schema = self._object(1) if draw < 0.7 else self._any(1)
        if self._random.random() < 0.25:
            schema = self._recursive()
        return {**schema, "$defs": self._definitions} if self._definitions else schema

    def _any(self, depth: int) -> Schema:
        simple: list[Callable[[int], Schema]] = [
            self._string,
            self._integer,
            self._number,
            self._enum,
            self._constant,
            lambda _: {"type": self._random.choice(["boolean", "null"])},
        ]
        nested: list[Callable[[int], Schema]] = [
            self._object,
            self._array,
            self._tuple,
            self._union,
            self._nullable,
            self._reference,
            self._both,
        ]
        choices = simple if depth >= DEEPEST else simple + nested + nested
        return self._random.choice(choices)(depth)

    def _string(self, depth: int) -> Schema:
        draw = self._random.randrange(4)
        if draw == 0:
            return {"type": "string", "pattern": self._random.choice([*PATTERNS])}
        if draw == 1:
            return {"type": "string", "format": self._random.choice([*FORMATS])}
        if draw == 2:
            least = self._random.randrange(4)
            return {"type": "string", "minLength": least, "maxLength": least + self._random.randrange(8)}
        return {"type": "string", "maxLength": 12}

    def _integer(self, depth: int) -> Schema:
        low = self._random.randrange(-2000, 2000)
        high = low + self._random.choice([0, 7, 1000, 10**7])
        bounds: list[Schema] = [
            {},
            {"minimum": low},
            {"maximum": high},
            {"minimum": low, "maximum": high},
            {"exclusiveMinimum": low - 1, "exclusiveMaximum": high + 1},
            {"multipleOf": self._random.choice([2, 5, 7, 100]), "minimum": -9999, "maximum": 9999},
        ]
        return {"type": "integer", **self._random.choice(bounds)}

    def _number(self, depth: int) -> Schema:
        low = round(self._random.uniform(-50, 50), self._random.randrange(3))
        high = low + self._random.choice([0.5, 3, 1000.25])
        bounds: list[Schema] = [
            {},
            {"minimum": low, "maximum": high},
            {"exclusiveMinimum": low, "exclusiveMaximum": low + 7},
            {"minimum": low},
            {"multipleOf": 0.5, "minimum": -1000, "maximum": 1000},
        ]
        return {"type": "number", **self._random.choice(bounds)}

    def _enum(self, depth: int) -> Schema:
        values: list[Any] = [*WORDS, 0, -17, 2.5, True, None, [1, "two"], {"k": []}]
        return {"enum": self._random.sample(values, self._random.randrange(1, 6))}

    def _constant(self, depth: int) -> Schema:
        return {"const": self._random.choice([*WORDS, 42, None, {"deep": [True, {"er": "x"}]}])}

    def _object(self, depth: int) -> Schema:
        names = sorted(self._random.sample(NAMES, self._random.randrange(0, 6)))
        schema: Schema = {
            "type": "object",
            "properties": {name: self._any(depth + 1) for name in names},
            "required": [name for name in names if self._random.random() < 0.6],
            "additionalProperties": False,
        }
        draw = self._random.random()
        if draw < 0.1:
            schema["additionalProperties"] = self._any(DEEPEST)
        elif draw < 0.2:
            schema["patternProperties"] = {"^p_[a-z]+$": self._any(DEEPEST)}
        return schema

    def _array(self, depth: int) -> Schema:
        least = self._random.randrange(3)
        return {
            "type": "array",
            "items": self._any(depth + 1),
            "minItems": least,
            "maxItems": least + self._random.randrange(3),
        }

    def _tuple(self, depth: int) -> Schema:
        count = self._random.randrange(1, 4)
        parts = [self._any(depth + 1) for _ in range(count)]
        return {
            "type": "array",
            "prefixItems": parts,
            "items": False,
            "minItems": self._random.randrange(count + 1),
        }

    def _union(self, depth: int) -> Schema:
        return {"anyOf": [self._any(depth + 1) for _ in range(self._random.randrange(2, 4))]}

    def _nullable(self, depth: int) -> Schema:
        return {"type": ["string", "null"], "maxLength": 6}

    def _both(self, depth: int) -> Schema:
        low = self._random.randrange(100)
        return {"allOf": [{"type": "integer"}, {"minimum": low}, {"maximum": low + 50}]}

    def _reference(self, depth: int) -> Schema:
        name = f"d{len(self._definitions)}"
        self._definitions[name] = {}
        self._definitions[name] = self._any(depth + 1)
        return {"$ref": f"#/$defs/{name}"}

    def _recursive(self) -> Schema:
        self._definitions["node"] = {
            "type": "object",
            "properties": {
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 2},
                "value": self._any(DEEPEST),
            },
            "required": ["value"],
            "additionalProperties": False,
        }
        return {"$ref": "#/$defs/node"}


def schemas(count: int, seed: int = 0) -> list[Schema]:
    """That many schemas."""
    generator = Generator(seed)
    return [generator.document() for _ in range(count)]


def drawn_instance(schema: Schema, draw: random.Random) -> Any:
    """A value that satisfies a schema of this module, with its keys in order."""
    return _instance(schema, schema.get("$defs", {}), draw, 0)


def _instance(schema: Schema, definitions: Schema, draw: random.Random, depth: int) -> Any:
    if "$ref" in schema:
        return _instance(definitions[schema["$ref"].split("/")[-1]], definitions, draw, depth + 1)
    if "anyOf" in schema:
        return _instance(draw.choice(schema["anyOf"]), definitions, draw, depth + 1)
    if "allOf" in schema:
        return _instance(
            {key: v for part in schema["allOf"] for key, v in part.items()}, definitions, draw, depth
        )
    if "enum" in schema:
        return draw.choice(schema["enum"])
    if "const" in schema:
        return schema["const"]
    kind = draw.choice(schema["type"]) if isinstance(schema["type"], list) else schema["type"]
    if kind == "object":
        return _drawn_object(schema, definitions, draw, depth)
    if kind == "array":
        return _drawn_array(schema, definitions, draw, depth)
    return {"boolean": draw.random() < 0.5, "null": None}.get(kind, _drawn_plain(kind, schema, draw))


def _drawn_object(schema: Schema, definitions: Schema, draw: random.Random, depth: int) -> Schema:
    names = [name for name in schema["properties"] if name in schema["required"] or draw.random() < 0.5]
    found = {name: _instance(schema["properties"][name], definitions, draw, depth + 1) for name in names}
    others = schema["additionalProperties"], schema.get("patternProperties", {}).get("^p_[a-z]+$")
    for name, other in zip(("more", "p_more"), others, strict=True):
        if other and draw.random() < 0.5:
            found[name] = _instance(other, definitions, draw, depth + 1)
    return found


def _drawn_array(schema: Schema, definitions: Schema, draw: random.Random, depth: int) -> list[Any]:
    parts = schema.get("prefixItems", [])
    most = len(parts) if parts else schema["maxItems"]
    # Deeper recursion than a few levels comes to no end.
    least = schema.get("minItems", 0)
    count = least if depth > 6 else draw.randint(least, most)
    return [
        _instance(part, definitions, draw, depth + 1) for part in (parts[:count] or [schema["items"]] * count)
    ]


def _drawn_plain(kind: str, schema: Schema, draw: random.Random) -> Any:
    if kind == "string":
        if "pattern" in schema:
            return draw.choice(PATTERNS[schema["pattern"]])
        if "format" in schema:
            return FORMATS[schema["format"]]
        length = draw.randint(schema.get("minLength", 0), schema["maxLength"])
        return "".join(draw.choice('aZ0 é😀"\\/\n') for _ in range(length))
    unit = schema.get("multipleOf", 1 if kind == "integer" else 0.125)
    low: Any = schema.get("minimum", schema.get("exclusiveMinimum", -3000))
    high: Any = schema.get("maximum", schema.get("exclusiveMaximum", max(low, 0) + 3000))
    # Strictly between both, unless they are one.
    value = draw.randint(low, high) if kind == "integer" else draw.uniform(low, high)
    if kind == "integer" and "exclusiveMinimum" in schema:
        value = draw.randint(low + 1, high - 1)
    if "multipleOf" in schema:
        return max(value // unit, low // unit + 1) * unit
    return value if kind == "integer" else min(max(round(value, 3), low + 0.001), high - 0.001)


def trained_vocabulary(size: int = 1200) -> tuple[list[str], list[str]]:
    """Tokens and merges, in the spelling of GPT-2, of a byte-level BPE trained on JSON documents."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    draw = random.Random(5)
    words = [*NAMES, *WORDS, "true", "false", "null", "the", "value", "hello", "world"]
    documents = [
        {draw.choice(words): [draw.choice(words), draw.randrange(5000), {draw.choice(words): draw.random()}]}
        for _ in range(400)
    ]
    texts = [
        json.dumps(document, indent=draw.choice([None, 2]), ensure_ascii=False) for document in documents
    ]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    return tokens, merges
