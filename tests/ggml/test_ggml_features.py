"""What is told about a library, and what `puna doctor` makes of it."""

import json
import platform
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import puna.ggml
from puna.cli.commands.doctor import command
from puna.ggml import Candidate, features, processor
from puna.ggml.features import Features, advice

INSPECT = """
import json, dataclasses, puna.ggml
from puna.ggml import features
f = features.inspect(puna.ggml.load())
print(json.dumps({**dataclasses.asdict(f), "processor": sorted(f.processor or ())}))
"""

BEST = Features(
    origin="puna-ggml",
    folder="/lib",
    version="0.25.3",
    backends={"CPU": ("AVX2", "AVX512", "FMA", "LLAMAFILE", "OPENMP", "REPACK")},
    buffer_types=("CPU_REPACK",),
    rpc=True,
    devices=(),
    processor=frozenset({"AVX2", "AVX512", "FMA"}),
)


def test_every_installed_library_tells(installed: Candidate, answer: Callable[[str, Path], Any]) -> None:
    told = answer(INSPECT, installed.folder)
    cpu = told["devices"][0]
    assert (cpu["name"], cpu["kind"]) == ("CPU", "cpu")
    assert 0 < cpu["memory_free"] <= cpu["memory_total"]
    known = set(processor.names())
    assert set(told["backends"]["CPU"]) & known <= set(told["processor"])
    assert told["buffer_types"] == ["CPU_REPACK"]


def test_the_prebuilt_library_is_the_plain_one(prebuilt: Path, answer: Callable[[str, Path], Any]) -> None:
    told = answer(INSPECT, prebuilt)
    assert told["version"] == "0.20.2"
    assert told["rpc"] is False
    assert not {"LLAMAFILE", "OPENMP", "AVX512"} & set(told["backends"]["CPU"])


def test_nothing_is_missing_from_the_best() -> None:
    assert advice(BEST) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"processor": frozenset({"AVX2", "AVX512_VNNI"})}, "this processor has AVX512_VNNI"),
        ({"backends": {"CPU": ("AVX2", "AVX512", "FMA", "REPACK")}}, "without tinyBLAS"),
        ({"version": "0.20.2"}, "ggml 0.25 reads prompts"),
        ({"buffer_types": ()}, "without repacked weights"),
        ({"rpc": False}, "without RPC"),
    ],
)
def test_each_lack_is_told(change: dict[str, Any], words: str) -> None:
    (only,) = advice(replace(BEST, **change))
    assert words in only.lack
    assert only.command == "pip install -r requirements.txt"


def test_a_pinned_library_must_be_let_go_first() -> None:
    (only,) = advice(replace(BEST, origin="path", rpc=False))
    assert only.command == "unset PUNA_GGML_PATH; pip install -r requirements.txt"


def test_no_advice_about_a_processor_that_is_not_known() -> None:
    assert advice(replace(BEST, processor=None)) == []


def test_doctor_tells_people() -> None:
    shown = CliRunner().invoke(command, [])
    assert shown.exit_code == 0
    library = puna.ggml.load()
    assert f"ggml {library.version_text} from {library.origin}: " in shown.output
    assert str(library.folder) in shown.output
    assert "CPU: " in shown.output


def test_doctor_tells_programs() -> None:
    told = json.loads(CliRunner().invoke(command, ["--json"]).output)
    library = puna.ggml.load()
    assert told["ggml"]["folder"] == str(library.folder)
    assert told["ggml"]["version"] == library.version_text
    assert told["advice"] == [
        {"lack": item.lack, "command": item.command} for item in advice(features.inspect(library))
    ]
    assert str(library.folder) not in [other["folder"] for other in told["other_libraries"]]


def test_flags_are_read_from_the_first_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu pni avx avx2 fma\nbugs\t\t: none\n")
    monkeypatch.setattr(processor, "_CPUINFO", cpuinfo)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert processor.features() == frozenset({"SSE3", "AVX", "AVX2", "FMA"})
    cpuinfo.unlink()
    assert processor.features() is None


def test_the_vendor_is_that_of_the_first_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nvendor_id\t: AuthenticAMD\nflags\t\t: fpu\n")
    monkeypatch.setattr(processor, "_CPUINFO", cpuinfo)
    assert processor.vendor.__wrapped__() == "AuthenticAMD"
    cpuinfo.unlink()
    assert processor.vendor.__wrapped__() == ""


def test_an_unknown_architecture_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "s390x")
    assert processor.features() is None
