"""Writes `puna.ggml`'s tables from the headers of the ggml C library.

    python scripts/generate_ggml.py HEADERS_DIR [HEADERS_DIR ...] --version TEXT

Each HEADERS_DIR holds ggml.h and its companions, oldest version first. The table has every function of every
version; the newest declaration wins, and CHANGED lists the older forms of functions that were declared
otherwise. Enumerations and structures are those of the newest version. An enumerator with another value in
another version stops the script, unless its enumeration is left out (SKIPPED_ENUMS), and so does a structure
whose layout changed.

The grammar understood is the one these headers use: one declaration per `GGML_API`/`GGML_BACKEND_API`,
enumerations and structures without nesting, no macros inside declarations except GGML_DEPRECATED. Anything
else raises.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HEADERS = ("ggml.h", "ggml-alloc.h", "ggml-backend.h", "ggml-cpu.h", "ggml-rpc.h")

SCALARS = {
    "void": "v", "bool": "b", "char": "c", "float": "f", "double": "d", "int": "i", "size_t": "z",
    "int8_t": "i1", "uint8_t": "u1", "int16_t": "i2", "uint16_t": "u2", "int32_t": "i", "uint32_t": "u4",
    "int64_t": "l", "uint64_t": "u8", "ggml_fp16_t": "u2", "ggml_bf16_t": "u2",
}  # fmt: skip

# Their numbers move from version to version (a new op lands in the middle): ask the library for names.
SKIPPED_ENUMS = frozenset({"ggml_op", "ggml_object_type", "ggml_opt_loss_type", "ggml_opt_optimizer_type"})

STRUCTS = (
    "ggml_init_params",
    "ggml_tensor",
    "ggml_tallocr",
    "ggml_backend_graph_copy",
    "ggml_threadpool_params",
    "ggml_cplan",
    "ggml_type_traits",
    "ggml_backend_dev_caps",
    "ggml_backend_dev_props",
    "ggml_backend_feature",
)

CTYPES = {
    "p": "c_void_p", "s": "c_char_p", "b": "c_bool", "c": "c_char", "f": "c_float", "d": "c_double",
    "i": "c_int", "z": "c_size_t", "l": "c_int64", "i1": "c_int8", "u1": "c_uint8", "i2": "c_int16",
    "u2": "c_uint16", "u4": "c_uint32", "u8": "c_uint64",
}  # fmt: skip


class HeaderError(Exception):
    """A header that says something this script does not understand."""


@dataclass(frozen=True, slots=True)
class Header:
    """What one version of the headers declares.

    Attributes:
        functions: name → signature, see `signature`.
        enums: name → enumerator → value.
        structs: name → list of (field, code, count); count 0 means no array.
        constants: names of `#define NAME integer`.
    """

    functions: dict[str, str]
    enums: dict[str, dict[str, int]]
    structs: dict[str, list[tuple[str, str, int]]]
    constants: dict[str, int]


def without_comments(text: str) -> str:
    text = re.sub(r"/\*.*?\*/", " ", text, flags=re.S)
    return re.sub(r"//[^\n]*", "", text)


def code_of(ctype: str) -> str:
    """The code of a C type: a scalar's, `p` a pointer, `s` `const char *`, `{name}` a structure by value."""
    words = re.sub(r"\b(const|struct|static|extern|volatile)\b", " ", ctype.replace("*", " * ")).split()
    if "(" in ctype:
        raise HeaderError(f"function pointer outside a typedef: {ctype}")
    if "*" in words:
        return "s" if words == ["char", "*"] and "const" in ctype else "p"
    if words[0] == "enum":
        return "i"
    (name,) = words
    if name in SCALARS:
        return SCALARS[name]
    if name in STRUCTS:
        return "{" + name + "}"
    if name.endswith(("_t", "_callback")):  # a typedef of a pointer to a structure or a function
        return "p"
    raise HeaderError(f"unknown type {ctype.strip()!r}")


def parameter_code(parameter: str) -> str:
    """The code of one parameter: its declaration with or without a name."""
    parameter = parameter.strip()
    if "[" in parameter:
        return "p"
    match = re.fullmatch(r"(.*?[\s*])\s*([A-Za-z_]\w*)", parameter, flags=re.S)
    named = match and match[1].strip() not in ("", "const", "struct", "enum", "const struct")
    return code_of(match[1] if match and named else parameter)


def signature(result: str, parameters: str) -> str:
    """`result:parameter parameter …` in codes; `i:` takes no parameters."""
    parameters = parameters.strip()
    codes = [] if parameters in ("", "void") else [parameter_code(part) for part in parameters.split(",")]
    return f"{code_of(result)}:{' '.join(codes)}"


def functions(text: str) -> Iterator[tuple[str, str]]:
    """Every function that is not variadic and takes no FILE, with its signature."""
    pattern = (
        r"GGML_(?:BACKEND_)?API\s+((?:[^;(]|\n)+?)\b(\w+)\s*\(([^;]*?)\)\s*(?:GGML_\w+\([^;]*?\)\s*)?[;,]"
    )
    for result, name, parameters in re.findall(pattern, text):
        if "..." in parameters or "FILE" in parameters + result or "GGML_NORETURN" in result:
            continue
        yield name, signature(result, parameters)


def enum_members(body: str, known: dict[str, int]) -> dict[str, int]:
    members: dict[str, int] = {}
    value = -1
    for part in filter(None, (part.strip() for part in body.split(","))):
        name, _, expression = (piece.strip() for piece in part.partition("="))
        value = integer(expression, {**known, **members}) if expression else value + 1
        members[name] = value
    return members


def integer(expression: str, known: dict[str, int]) -> int:
    """An integer literal, a known name, a shift or a quotient of these."""
    expression = expression.strip().strip("()")
    for operator in ("<<", "/"):
        if operator in expression:
            left, right = (integer(side, known) for side in expression.split(operator))
            return left << right if operator == "<<" else left // right
    if expression == "sizeof(int32_t" or expression == "sizeof(int32_t)":
        return 4
    return known[expression] if expression in known else int(expression, 0)


def constants(text: str) -> dict[str, int]:
    found = re.findall(
        r"^#\s*define\s+((?:GGML|RPC)_\w+)[ \t]+(-?\d+|0x[0-9a-fA-F]+)[ \t]*$", text, flags=re.M
    )
    return {name: int(value, 0) for name, value in found}


def fields(body: str, known: dict[str, int]) -> list[tuple[str, str, int]]:
    found = []
    for declaration in filter(None, (part.strip() for part in body.split(";"))):
        match = re.fullmatch(r"(.*?[\s*])(\w+)\s*(?:\[(.*)\])?", declaration, flags=re.S)
        if not match:
            raise HeaderError(f"field not understood: {declaration}")
        count = integer(match[3], known) if match[3] else 0
        found.append((match[2], code_of(match[1]), count))
    return found


def read(folder: Path) -> Header:
    """Parses the headers of one version."""
    text = without_comments("\n".join((folder / name).read_text("utf-8") for name in HEADERS))
    known = constants(text)
    text = re.sub(r"^#.*?(?<!\\)$", "", text, flags=re.M | re.S)
    text = re.sub(r"GGML_DEPRECATED\(\s*(GGML_\w*API.*?),\s*\"[^\"]*\"\s*\);", r"\1;", text, flags=re.S)
    enums = {
        name: enum_members(body, known) for name, body in re.findall(r"enum\s+(\w+)\s*\{(.*?)\}", text, re.S)
    }
    bodies = dict(re.findall(r"struct\s+(\w+)\s*\{(.*?)\}", text, re.S))
    structs = {name: fields(bodies[name], known) for name in STRUCTS}
    return Header(dict(functions(text)), enums, structs, known)


def version_changes(headers: list[Header]) -> dict[str, list[str]]:
    """Functions whose signature differs between the versions, with the older forms, oldest first."""
    changed: dict[str, list[str]] = {}
    newest = headers[-1].functions
    for header in headers[:-1]:
        for name, form in header.functions.items():
            if name in newest and newest[name] != form and form not in changed.get(name, []):
                changed.setdefault(name, []).append(form)
    return changed


def check_enums(headers: list[Header]) -> None:
    """Raises where an enumerator that callers use has another value in another version."""
    for header in headers[:-1]:
        for enum, members in header.enums.items():
            if enum in SKIPPED_ENUMS:
                continue
            for member, value in members.items():
                now = headers[-1].enums.get(enum, {}).get(member, value)
                if now != value and not member.endswith("_COUNT"):
                    raise HeaderError(f"{enum}.{member} was {value}, is {now}: skip the enumeration")


def check_structs(headers: list[Header]) -> None:
    """Raises where a structure's older fields are not a prefix of its newer ones."""
    for header in headers[:-1]:
        for name, older in header.structs.items():
            if headers[-1].structs[name][: len(older)] != older:
                raise HeaderError(f"struct {name} changed its layout")


NOTE = "Written by scripts/generate_ggml.py from the headers of ggml {version}: do not edit."


def functions_module(headers: list[Header], version: str) -> str:
    table = {name: form for header in headers for name, form in header.functions.items()}
    lines = [
        f'"""Every function of the ggml C library and its signature.\n\n{NOTE.format(version=version)}',
        "",
        "A signature is `result:parameter …` in codes: p pointer or handle (int), s `const char *`, b bool,",
        "i int (32 bits, also every enumeration), l int64, z size_t, f float, d double, v void, u1/u2/u4/u8",
        'and i1/i2 integers of that many bytes, {name} a structure of `puna.ggml.layouts` by value.\n"""\n',
        "FUNCTIONS = {",
        *(f'    "{name}": "{form}",' for name, form in sorted(table.items())),
        "}",
        "",
        "CHANGED: dict[str, tuple[str, ...]] = {",
        *(f'    "{name}": {tuple(forms)!r},' for name, forms in sorted(version_changes(headers).items())),
        "}",
        '"""Functions that older versions declare otherwise, with those declarations, oldest first."""',
    ]
    return "\n".join(lines) + "\n"


def camel(name: str) -> str:
    return "".join(word.capitalize() for word in name.removeprefix("ggml_").split("_"))


def common_prefix(names: list[str]) -> str:
    """The longest prefix of whole words that all enumerators share."""
    split = [name.split("_") for name in names]
    count = 0
    while all(len(words) > count + 1 and words[count] == split[0][count] for words in split):
        count += 1
    return "".join(f"{word}_" for word in split[0][:count])


def enum_class(name: str, members: dict[str, int]) -> list[str]:
    prefix = common_prefix([member for member in members if not member.endswith("_COUNT")] or list(members))
    kept = {member: value for member, value in members.items() if not member.endswith("_COUNT")}
    names = {member: member.removeprefix(prefix) for member in kept}
    if any(short[0].isdigit() for short in names.values()):
        names = dict(zip(kept, kept, strict=True))
    return [
        "",
        "",
        f"class {camel(name)}(IntEnum):",
        f'    """`enum {name}`."""',
        "",
        *(f"    {names[member]} = {value}" for member, value in kept.items()),
    ]


def enums_module(newest: Header, version: str) -> str:
    lines = [f'"""Enumerations and constants of the ggml C library.\n\n{NOTE.format(version=version)}\n"""\n']
    lines += ["from enum import IntEnum", ""]
    lines += [
        f"{name} = {value}" for name, value in sorted(newest.constants.items()) if name.startswith("GGML_")
    ]
    for name, members in newest.enums.items():
        if name not in SKIPPED_ENUMS:
            lines += enum_class(name, members)
    return "\n".join(lines) + "\n"


def field_type(code: str, count: int) -> str:
    base = code[1:-1] if code.startswith("{") else f"ctypes.{CTYPES[code]}"
    return f"{base} * {count}" if count else base


def layouts_module(newest: Header, version: str) -> str:
    lines = [f'"""Structures of the ggml C library.\n\n{NOTE.format(version=version)}\n"""\n\nimport ctypes']
    for name in STRUCTS:
        lines += [
            "",
            "",
            f"class {name}(ctypes.Structure):",
            f'    """`struct {name}`."""',
            "",
            "    _fields_ = (",
        ]
        lines += [f'        ("{field}", {field_type(code, n)}),' for field, code, n in newest.structs[name]]
        lines += ["    )"]
    return "\n".join(lines) + "\n"


def generate(folders: list[Path], version: str) -> dict[str, str]:
    """The text of each module by file name."""
    headers = [read(folder) for folder in folders]
    check_enums(headers)
    check_structs(headers)
    return {
        "functions.py": functions_module(headers, version),
        "enums.py": enums_module(headers[-1], version),
        "layouts.py": layouts_module(headers[-1], version),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("headers", type=Path, nargs="+", help="folders with ggml.h, oldest version first")
    parser.add_argument(
        "--version", required=True, help="the versions these headers are of, for the modules' notes"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "src/puna/ggml")
    arguments = parser.parse_args()
    try:
        modules = generate(arguments.headers, arguments.version)
    except HeaderError as error:
        sys.exit(f"{parser.prog}: {error}")
    for name, text in modules.items():
        (arguments.out / name).write_text(text, "utf-8")
    command = [sys.executable, "-m", "ruff", "format", "-q"]
    subprocess.run([*command, *(arguments.out / name for name in modules)], check=True)


if __name__ == "__main__":
    main()
