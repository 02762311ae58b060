"""Which part of Puna may import which: imports point one way, and each concern has one place.

docs/structure.md tells the same in words.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
ROOT = PROJECT / "src" / "puna"
STRUCTURE = PROJECT / "docs" / "structure.md"

# What each part may import of the others, inside functions and for types too.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "humanize": set(),
    "gojson": set(),
    "progress": set(),
    "regular": set(),
    "linux": set(),
    "cancellation": {"errors"},
    "variables": {"humanize"},
    "options": {"variables"},
    "settings": {"errors", "options", "variables"},
    "gguf": {"errors", "regular"},
    "modelfile": {"errors", "regular"},
    "convert": {"errors", "gguf", "progress", "regular", "tokenizer"},
    "template": {"errors", "gojson"},
    "sampling": {"errors"},
    "tokenizer": {"errors"},
    "ggml": {"errors", "settings"},
    "ml": {"errors", "gguf", "ggml", "linux"},
    "kvcache": {"errors", "ml"},
    "images": {"errors", "gguf"},
    "models": {"errors", "gguf", "images", "ml", "kvcache"},
    "engine": {"errors", "gguf", "ml", "kvcache", "models", "sampling", "tokenizer"},
    "chat": {"errors", "gguf", "images", "sampling", "template", "tokenizer"},
    "store": {"errors", "gguf", "gojson", "humanize", "progress", "regular"},
    "quantize": {"errors", "gguf", "ggml", "progress", "settings"},
    "registry": {"errors", "convert", "gguf", "progress", "settings", "store", "cancellation", "options"},
    "create": {
        *("errors", "convert", "gguf", "gojson", "modelfile", "progress", "quantize", "regular", "sampling"),
        "store",
    },
    "services": {
        *("errors", "engine", "gguf", "images", "modelfile", "progress", "sampling", "template"),
        "tokenizer",
        *("chat", "store", "registry", "create", "cancellation", "scheduler"),
    },
    "client": {"errors", "sampling", "settings", "variables"},
    "runner": {"linux", "errors", "engine", "ml", "settings"},
    "inprocess": {
        *(
            "errors",
            "gojson",
            "settings",
            "progress",
            "client",
            "engine",
            "chat",
            "sampling",
            "services",
            "store",
        ),
    },
    "__init__": {"client", "inprocess"},
    "scheduler": {"errors", "engine", "humanize", "runner"},
    "server": {
        *(
            "errors",
            "gojson",
            "humanize",
            "progress",
            "options",
            "settings",
            "engine",
            "sampling",
            "chat",
            "store",
        ),
        *("create", "runner", "scheduler", "services"),
    },
    "benchmark": {"errors", "engine"},
    "cli": {
        *("errors", "humanize", "progress", "settings", "gguf", "ggml", "ml", "sampling"),
        *("client", "inprocess", "modelfile", "engine", "benchmark", "chat", "store", "registry", "create"),
        *("tokenizer",),
        *("services", "server", "runner", "scheduler", "options", "variables", "quantize", "regular"),
    },
    "__main__": {"cli"},
}

# Of these folders a module may import only those named of its own folder.
SIBLINGS = {
    "models": {"base", "hyper", "stack", "vision"},
    "cli/commands": set[str](),
    "chat/parsers/formats": set[str](),
}


@dataclass(frozen=True, slots=True)
class Import:
    """An import statement's module, in a file given relative to the package."""

    file: Path
    line: int
    module: str

    @property
    def importer(self) -> str:
        return self.file.parts[0].removesuffix(".py")

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.module}"


def sources() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(ROOT.rglob("*.py")):
        yield path.relative_to(ROOT), ast.parse(path.read_text(encoding="utf-8"))


def imports() -> Iterator[Import]:
    """Every import of the package, wherever in a file it stands; `from a import b` counts as `a.b`."""
    for file, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                yield from (Import(file, node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{file}:{node.lineno} is a relative import"
                for alias in node.names:
                    yield Import(file, node.lineno, f"{node.module}.{alias.name}")


def parts() -> set[str]:
    """The package's folders and modules."""
    found = {path.stem for path in ROOT.glob("*.py")} | {path.parent.name for path in ROOT.glob("*/*.py")}
    return found


def inner(module: str) -> str | None:
    """The part of Puna that a module belongs to, None for other packages and for the version."""
    names = module.split(".")
    return names[1] if names[0] == "puna" and len(names) > 1 and names[1] != "__version__" else None


def test_every_part_is_in_the_table_and_on_the_page() -> None:
    assert parts() == ALLOWED.keys()
    page = STRUCTURE.read_text(encoding="utf-8")
    assert [part for part in ALLOWED if f"- `{part}`" not in page] == []


def test_the_table_has_no_circles() -> None:
    done: set[str] = set()
    while len(done) < len(ALLOWED):
        ready = {part for part, allowed in ALLOWED.items() if allowed <= done} - done
        assert ready, f"these import each other: {sorted(ALLOWED.keys() - done)}"
        done |= ready


def test_imports_follow_the_table() -> None:
    wrong = [
        str(found)
        for found in imports()
        if (part := inner(found.module)) and part != found.importer and part not in ALLOWED[found.importer]
    ]
    assert wrong == []


def test_the_table_allows_nothing_that_is_not_used() -> None:
    used = {(found.importer, inner(found.module)) for found in imports()}
    spare = {(part, other) for part, allowed in ALLOWED.items() for other in allowed - {"errors"}}
    assert spare - used == set()


@pytest.mark.parametrize("folder", SIBLINGS)
def test_siblings_do_not_import_each_other(folder: str) -> None:
    place = ["puna", *folder.split("/")]
    wrong = []
    for found in imports():
        names = found.module.split(".")
        if found.file.parent != Path(folder) or found.file.stem == "__init__":
            continue
        if names[: len(place)] == place and not SIBLINGS[folder] & {*names[len(place) :]}:
            wrong.append(str(found))
    assert wrong == []


def test_parsers_of_answers_import_only_events_and_errors() -> None:
    allowed = ("puna.chat.parsers", "puna.chat.events", "puna.errors")
    wrong = [
        str(found)
        for found in imports()
        if found.file.is_relative_to("chat/parsers")
        and inner(found.module)
        and not any(f"{found.module}.".startswith(f"{module}.") for module in allowed)
    ]
    assert wrong == []


def test_of_a_runner_only_what_runs_in_its_process_imports_what_computes() -> None:
    plain = ("puna.engine.events.", "puna.engine.options.", "puna.engine.request.")
    wrong = [
        str(found)
        for found in imports()
        if found.importer == "runner"
        and found.file.name not in ("worker.py", "__main__.py")
        and (
            (inner(found.module) in ("engine", "ml") and not found.module.startswith(plain))
            or found.module.startswith("puna.runner.worker")
        )
    ]
    assert wrong == []


def test_ctypes_stays_where_the_c_interfaces_are() -> None:
    where = {"ggml", "linux"}
    wrong = [str(f) for f in imports() if f.module.split(".")[0] == "ctypes" and f.importer not in where]
    assert wrong == []


def test_the_environment_is_read_in_settings_only() -> None:
    reading = {"environ", "environb", "getenv", "putenv"}
    wrong = [str(f) for f in imports() if f.module.removeprefix("os.") in reading]
    for file, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in reading and ast.unparse(node.value) == "os":
                wrong.append(f"{file}:{node.lineno}")
    assert {place.split(":")[0] for place in wrong} == {"settings.py"}


@pytest.mark.parametrize(
    "module",
    [
        "puna",
        "puna.cli.main",
        "puna.cli.models",
        "puna.cli.options",
        "puna.cli.commands.imatrix",
        "puna.cli.commands.import_",
        "puna.cli.commands.list",
        "puna.cli.commands.run",
        "puna.cli.commands.inspect",
        "puna.cli.commands.login",
        "puna.cli.commands.serve",
        "puna.chat.parsers.detect",
        "puna.client.asynchronous",
        "puna.client.synchronous",
        "puna.chat.parsers.registry",
        "puna.chat.prompt",
        "puna.convert.convert",
        "puna.engine.options",
        "puna.gguf",
        "puna.images.header",
        "puna.registry.auth",
        "puna.runner.protocol",
        "puna.runner.process",
        "puna.quantize.process",
        "puna.registry.pypi",
        "puna.scheduler.keep_alive",
        "puna.scheduler.scheduler",
        "puna.sampling.grammar",
        "puna.sampling.lark",
        "puna.sampling.parameters",
        "puna.sampling.toolcalls",
        "puna.server.http",
        "puna.server.anthropic.routes",
        "puna.server.native.inference",
        "puna.server.start",
        "puna.services.conversation",
        "puna.services.inference",
        "puna.store.archive",
        "puna.store.library",
        "puna.chat.capabilities",
        "puna.template.go",
        "puna.template.known",
        "puna.template.jinja",
    ],
)
def test_what_only_handles_models_imports_no_compute_library(module: str) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"numpy", "ctypes", "puna.ggml", "puna.ml", "tokenizers", "sentencepiece", "PIL"} & {
        *loaded.split()
    }
