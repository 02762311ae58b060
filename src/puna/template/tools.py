"""The tools of a conversation as templates see them: fields to walk through, and JSON to print.

The order of the JSON's keys, and what is left out, are what models were trained on with Ollama's templates.
"""

from collections.abc import Mapping, Sequence

from puna.errors import InvalidOption
from puna.template.fields import Json, in_order, list_field, object_field, object_of, text_of
from puna.template.go import Stringer, Struct, Value
from puna.template.go.values import to_json

MAX_DEPTH = 30


def tools_value(tools: Sequence[Mapping[str, Json]]) -> Stringer:
    """The tools as a template sees them. Raises: InvalidOption."""
    return Stringer("Tools", [_tool(tool) for tool in tools], to_json)


def _tool(tool: Json) -> Struct:
    tool = object_of(tool, "a tool")
    type, items = text_of(tool, "type"), tool.get("items")
    function = _function(object_field(tool, "function"))
    json = {"type": type, **_present(items=in_order(items)), "function": function.json}
    return Struct("Tool", {"Type": type, "Items": items, "Function": function}, json=json, prints_json=True)


def _function(function: Mapping[str, Json]) -> Struct:
    name, description = text_of(function, "name"), text_of(function, "description")
    parameters = _parameters(object_field(function, "parameters"))
    return Struct(
        "ToolFunction",
        {"Name": name, "Description": description, "Parameters": parameters},
        json={"name": name, "description": description, "parameters": parameters.json},
        prints_json=True,
    )


def _parameters(schema: Mapping[str, Json]) -> Struct:
    type, definitions, items = text_of(schema, "type"), schema.get("$defs"), schema.get("items")
    required = list_field(schema, "required")
    properties = _properties(schema, 0)
    json = {
        "type": type,
        **({"$defs": in_order(definitions)} if definitions is not None else {}),
        **_present(items=in_order(items), required=in_order(required) or None),
        "properties": properties.json if "properties" in schema else None,
    }
    fields: dict[str, Value] = {
        "Type": type,
        "Defs": definitions,
        "Items": items,
        "Required": required,
        "Properties": properties,
    }
    return Struct("ToolFunctionParameters", fields, json=json, prints_json=True)


def _properties(schema: Mapping[str, Json], depth: int) -> Stringer:
    given = object_field(schema, "properties")
    properties = {name: _property(object_of(given[name], "a property"), depth) for name in sorted(given)}
    json = {name: value.json for name, value in properties.items()}
    return Stringer("map[string]ToolProperty", properties, to_json, json)


def _property(schema: Mapping[str, Json], depth: int) -> Struct:
    if depth > MAX_DEPTH:
        raise InvalidOption(f"a tool's parameters are nested more than {MAX_DEPTH} deep; simplify them")
    either = [_property(object_of(one, "a type"), depth + 1) for one in list_field(schema, "anyOf")]
    type, description = _type(schema.get("type")), text_of(schema, "description")
    items, values, required = schema.get("items"), list_field(schema, "enum"), list_field(schema, "required")
    properties = _properties(schema, depth + 1)
    json = _present(
        anyOf=[one.json for one in either] or None,
        type=type.json,
        items=in_order(items),
        description=description or None,
        enum=in_order(values) or None,
        properties=properties.json or None,
        required=in_order(required) or None,
    )
    fields: dict[str, Value] = {
        "AnyOf": either,
        "Type": type,
        "Items": items,
        "Description": description,
        "Enum": values,
        "Properties": properties,
        "Required": required,
    }
    return Struct("ToolProperty", fields, json=json, prints_json=True)


def _type(type: Json) -> Stringer:
    """One type or several; prints as `string` or `[string null]`."""
    names = [type] if isinstance(type, str) else list_field({"type": type}, "type")
    return Stringer("PropertyType", names, _type_text, names[0] if len(names) == 1 else names or None)


def _type_text(names: Value) -> str:
    given = [str(name) for name in names] if isinstance(names, list) else []
    return given[0] if len(given) == 1 else f"[{' '.join(given)}]" if given else ""


def _present(**values: Json) -> dict[str, Json]:
    return {name: value for name, value in values.items() if value is not None}
