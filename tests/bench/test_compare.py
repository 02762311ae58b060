"""The comparison with llama.cpp, with programs that print what either would."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from bench.compare import Run, compare, measure, rates_by_test, rows, table

PEER_RECORD = {
    "n_prompt": 512,
    "n_gen": 0,
    "n_depth": 0,
    "samples_ns": [1, 2, 3],
    "samples_ts": [10.0, 30.0, 11.0],
}


def program(folder: Path, name: str, text: str) -> list[str]:
    """A program that runs a line of Python."""
    script = folder / name
    script.write_text(text)
    return [sys.executable, str(script)]


def speaker(folder: Path, name: str, rate: float) -> list[str]:
    """A program that prints what a benchmark with one test does, and leaves its name in a diary."""
    record = PEER_RECORD | {"samples_ts": [rate]}
    diary = folder / "diary"
    return program(
        folder, name, f"open({str(diary)!r}, 'a').write({name!r} + ' ')\nprint({json.dumps([record])!r})"
    )


def test_rates_are_medians_by_test_name() -> None:
    deep = {"n_prompt": 0, "n_gen": 128, "n_depth": 64, "samples_ts": [5.0]}
    assert rates_by_test([PEER_RECORD, deep]) == {"pp512": 11.0, "tg128 @ d64": 5.0}


def test_the_ratio_is_the_median_within_pairs_not_of_the_medians() -> None:
    speeds = [(10, 10), (20, 10), (90, 30)]
    pairs = [(Run({"pp512": ours}, 3_000_000), Run({"pp512": theirs}, 1_000_000)) for ours, theirs in speeds]
    (row,) = rows("m", pairs)
    assert (row.puna, row.peer, row.ratio, row.low, row.high) == (20, 10, 2.0, 1.0, 3.0)
    assert table([row]).splitlines()[-1] == "| m | pp512 | 20.0 | 10.0 | 2.00 | 1.00 … 3.00 | 3 | 1 |"


def test_both_run_in_turn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours, theirs = speaker(tmp_path, "ours", 30.0), speaker(tmp_path, "theirs", 20.0)
    (row,) = compare([Path("some/m.gguf")], ours, theirs, [], pairs=3)
    assert (tmp_path / "diary").read_text() == "ours theirs " * 3
    assert (row.model, row.test, row.ratio) == ("m", "pp512", 1.5)
    assert "pair 3 of 3" in capsys.readouterr().err


def test_memory_is_that_of_the_process_alone(tmp_path: Path) -> None:
    silent = "print('[]')"
    programs = [
        program(tmp_path, "large.py", f"held = b'1' * 1_000_000_000\n{silent}"),
        program(tmp_path, "small.py", silent),
    ]
    # A child begins with what its parent has, see wait4; the tests' own process may have a lot.
    code = f"from bench.compare import measure\nprint(*(measure(program).peak for program in {programs!r}))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    large, small = map(int, told.split())
    assert 1_000_000_000 < large < 1_030_000_000
    assert small < 900_000_000  # not the largest of all children


def test_a_program_that_fails_ends_the_comparison_with_what_it_said(tmp_path: Path) -> None:
    failing = program(tmp_path, "failing.py", "raise SystemExit('no such model')")
    with pytest.raises(SystemExit, match="status 1: no such model"):
        measure(failing)
