"""Builds llama.cpp's own programs for this processor, from llama-cpp-python's source distribution.

    python bench/build_llama_cpp.py [--cache FOLDER] [--jobs N]

The source comes from the package index, the build is llama.cpp's default release build for this processor,
and both stay in the cache folder. The folder with the programs is printed at the end;
a second call only prints it. Needs CMake and a C++ compiler.
"""

import argparse
import subprocess
import sys
import tarfile
from pathlib import Path

REQUIREMENT = "llama-cpp-python==0.3.36"
PROGRAMS = (
    *(
        "llama-bench",
        "llama-quantize",
        "llama-server",
        "llama-embedding",
        "llama-imatrix",
        "llama-perplexity",
    ),
)
OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DGGML_NATIVE=ON",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_SERVER=ON",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
)
DEFAULT_CACHE = Path.home() / ".cache" / "puna-bench" / REQUIREMENT.replace("==", "-")


def build(cache: Path, jobs: int) -> Path:
    """The folder with the programs, built if they are not there yet; the tools talk to standard error."""
    binaries = cache / "build" / "bin"
    if all((binaries / program).is_file() for program in PROGRAMS):
        return binaries
    folder = source(cache)
    _run(["cmake", "-S", str(folder), "-B", str(cache / "build"), *OPTIONS])
    _run(["cmake", "--build", str(cache / "build"), "--parallel", str(jobs), "--target", *PROGRAMS])
    return binaries


def source(cache: Path) -> Path:
    """The folder with llama.cpp's sources, fetched and unpacked if it is not there yet."""
    found = list(cache.glob("llama_cpp_python-*/vendor/llama.cpp/CMakeLists.txt"))
    if not found:
        cache.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
        _run([*pip, "--dest", str(cache), REQUIREMENT])
        (archive,) = cache.glob("llama_cpp_python-*.tar.gz")
        with tarfile.open(archive) as unpacked:
            unpacked.extractall(cache, filter="data")
        found = list(cache.glob("llama_cpp_python-*/vendor/llama.cpp/CMakeLists.txt"))
    return found[0].parent


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, stdout=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="(default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="compilers at once (default: %(default)s)")
    arguments = parser.parse_args()
    print(build(arguments.cache.absolute(), arguments.jobs))


if __name__ == "__main__":
    main()
