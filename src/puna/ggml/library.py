"""Loads the ggml C library and gives its functions as attributes.

Handles (contexts, tensors, backends, buffers …) are plain ints, NULL is None, `const char *` is bytes.
Functions that only build graphs or read fields keep the interpreter lock (`ctypes.PyDLL`): giving it up
would cost more than the call and would let another thread in between any two ops. Functions that compute,
allocate, copy or wait release it (`ctypes.CDLL`).

One process holds one ggml. Two copies would share their sonames, so that the second would be linked against
parts of the first.
"""

import ctypes
import os
import re
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from puna.errors import BackendError
from puna.ggml import layouts, processor
from puna.ggml.functions import FUNCTIONS
from puna.ggml.layouts import ggml_init_params, ggml_tensor
from puna.ggml.locate import Candidate, candidates
from puna.ggml.record import check_installed
from puna.settings import ggml_path, prepare_ggml

ABORT_STATUS = 1
"""Exit status of a process in which ggml gave up."""

OLDEST = (0, 15)
OBJECT_HEADER = 32  # sizeof(struct ggml_object), which precedes every tensor in its context

BLOCKING = re.compile(
    r"graph_compute|plan_compute|synchronize|event_wait|threadpool|quantize|validate|rpc|fp(16|32)_to|bf16_to"
    r"|tensor_(set|get|copy|memset)|alloc_buffer|alloc_ctx|alloc_graph|reserve|sched_(new|free)"
    r"|gallocr_(new|free)|buffer_(free|clear|init|from|copy)|backend_copy"
    r"|backend_(free|init|load|unload|dev_init|dev_memory|cpu_init)"
)

RESULTS: dict[str, Any] = {
    "v": None, "p": ctypes.c_void_p, "s": ctypes.c_char_p, "b": ctypes.c_bool, "c": ctypes.c_char,
    "f": ctypes.c_float, "d": ctypes.c_double, "i": ctypes.c_int, "z": ctypes.c_size_t, "l": ctypes.c_int64,
    "i1": ctypes.c_int8, "u1": ctypes.c_uint8, "i2": ctypes.c_int16, "u2": ctypes.c_uint16,
    "u4": ctypes.c_uint32, "u8": ctypes.c_uint64,
}  # fmt: skip

LogCallback = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
AbortCallback = ctypes.CFUNCTYPE(None, ctypes.c_char_p)


def ctype(code: str) -> Any:
    """The ctypes type of a signature's code."""
    return getattr(layouts, code[1:-1]) if code.startswith("{") else RESULTS[code]


class Library:
    """The loaded ggml; its C functions are attributes, found and typed on first use.

    Attributes:
        origin: where it came from, see `Candidate.origin`.
        folder: the folder of its files.
        version: as the library states it, for instance (0, 20, 2).
        log: the latest lines that ggml logged, oldest first.
        on_abort: called with the message just before the process ends because ggml gave up.
    """

    def __init__(self, candidate: Candidate) -> None:
        self.origin = candidate.origin
        self.folder = candidate.folder
        self.log: deque[str] = deque(maxlen=64)
        self.on_abort: Callable[[str], None] = lambda message: None
        check_installed(candidate)
        self._holding = [open_library(ctypes.PyDLL, file) for file in candidate.files]
        self._releasing = [open_library(ctypes.CDLL, file) for file in candidate.files]
        self.version: tuple[int, ...] = ()
        self.version = self._read_version()
        self._callbacks = (LogCallback(self._record), AbortCallback(self._abort))
        self.ggml_log_set(self._callbacks[0], None)
        self.ggml_set_abort_callback(self._callbacks[1])
        check_processor(self)
        check_layout(self)
        if self.ggml_backend_dev_count() == 0:
            self.ggml_backend_load_all_from_path(str(self.folder).encode())

    def __getattr__(self, name: str) -> Any:
        signature = FUNCTIONS.get(name)
        if signature is None:
            raise AttributeError(f"ggml has no function {name}")
        function = self._find(name)
        result, _, parameters = signature.partition(":")
        function.restype = ctype(result)
        function.argtypes = [ctype(code) for code in parameters.split()]
        setattr(self, name, function)
        return function

    def has(self, name: str) -> bool:
        """Whether this build of ggml exports a function."""
        return any(name_in(library, name) for library in self._holding)

    def tensor(self, handle: int) -> ggml_tensor:
        """The fields of a tensor, in place."""
        return ggml_tensor.from_address(handle)

    def failure(self, what: str) -> BackendError:
        """The error for something ggml refused, with the latest thing it logged."""
        return BackendError(f"{what}: {self.log[-1]}" if self.log else what)

    def _find(self, name: str) -> Any:
        libraries = self._releasing if BLOCKING.search(name) else self._holding
        for library in libraries:
            if name_in(library, name):
                return getattr(library, name)
        raise BackendError(
            f"ggml {self.version_text} in {self.folder} has no function {name}; install another build"
        )

    @property
    def version_text(self) -> str:
        return ".".join(map(str, self.version)) if self.version else "of unknown version"

    def _read_version(self) -> tuple[int, ...]:
        text = self.ggml_version().decode()
        numbers = tuple(int(number) for number in re.findall(r"\d+", text)[:3])
        if numbers[:2] < OLDEST:
            raise BackendError(
                f"ggml {text} in {self.folder} is too old; Puna needs {'.'.join(map(str, OLDEST))} or newer"
            )
        return numbers

    def _record(self, level: int, text: bytes | None, data: int | None) -> None:
        lines = (text or b"").decode("utf-8", "replace").splitlines()
        self.log.extend(line for line in lines if line.strip(" ."))

    def _abort(self, message: bytes | None) -> None:
        """Ends the process: the C frames above cannot be unwound, and ggml would kill it without a word."""
        text = (message or b"the library gave up").decode("utf-8", "replace").strip()
        try:
            self.on_abort(text)
            sys.stdout.flush()
        finally:
            os.write(2, f"puna: ggml: {' '.join(text.split())}\n".encode())
            os._exit(ABORT_STATUS)


def open_library(kind: type[ctypes.CDLL], file: Path) -> ctypes.CDLL:
    """Opens one shared library. Raises BackendError when the loader refuses it."""
    try:
        return kind(str(file))
    except OSError as error:
        raise BackendError(f"{file} cannot be loaded as a part of ggml: {error}") from error


def name_in(library: ctypes.CDLL, name: str) -> bool:
    """Whether a shared library exports a name."""
    try:
        library[name]
    except AttributeError:
        return False
    return True


def check_processor(library: Library) -> None:
    """Looks, before ggml computes anything, whether the processor has what it was compiled for.

    Raises:
        BackendError: it lacks something; the first such instruction would kill the process.
    """
    present = processor.features()
    if present is None:
        return
    asked = {name: f"ggml_cpu_has_{name.lower()}" for name in processor.names()}
    lacking = [
        name
        for name, function in asked.items()
        if name not in present and library.has(function) and getattr(library, function)()
    ]
    if lacking:
        raise BackendError(
            f"ggml in {library.folder} was compiled for a processor with {', '.join(lacking)},"
            " which this one lacks; install it again on this machine"
        )


def check_layout(library: Library) -> None:
    """Writes a tensor and a view through the library and reads them through our layout.

    Raises:
        BackendError: a size or a field is not where `puna.ggml.layouts` says.
    """
    size = library.ggml_tensor_overhead()
    expected = ctypes.sizeof(ggml_tensor) + OBJECT_HEADER
    if size != expected:
        raise layout_error(library, f"a tensor takes {size} bytes, not {expected}")
    context = library.ggml_init(ggml_init_params(1 << 16, None, False))
    tensor = library.ggml_new_tensor_4d(context, 0, 3, 5, 7, 2)
    view = library.ggml_view_1d(context, tensor, 4, 8)
    library.ggml_set_name(tensor, b"probe")
    seen, part = library.tensor(tensor), library.tensor(view)
    fields = {
        "ne": (tuple(seen.ne), (3, 5, 7, 2)),
        "nb": (tuple(seen.nb), (4, 12, 60, 420)),
        "type": (seen.type, 0),
        "name": (seen.name, b"probe"),
        "data": (seen.data, library.ggml_get_data(tensor)),
        "view": ((part.view_src, part.view_offs, part.src[0]), (tensor, 8, tensor)),
    }
    library.ggml_free(context)
    for field, (found, wanted) in fields.items():
        if found != wanted:
            raise layout_error(library, f"field {field} of a tensor reads {found}, not {wanted}")


def layout_error(library: Library, what: str) -> BackendError:
    return BackendError(
        f"ggml {library.version_text} in {library.folder} has another binary layout than Puna knows ({what});"
        " install the version in Puna's requirements"
    )


_loaded: dict[str, Library] = {}


def load(path: Path | None = None) -> Library:
    """The process's ggml library, loaded on the first call.

    Taken from `path`, else from the folder PUNA_GGML_PATH names, else from the best installed package
    (`PACKAGES` in `puna.ggml.locate`).

    Raises:
        BackendError: no library found, it cannot be loaded, it is too old or laid out otherwise, or another
            one is already loaded.
    """
    found = candidates(path or ggml_path()) if path or not _loaded else []
    if _loaded:
        library = _loaded["ggml"]
        if found and found[0].folder != library.folder:
            raise BackendError(
                f"ggml is already loaded from {library.folder}; start a new process for another"
            )
        return library
    if not found:
        raise BackendError("the ggml library is not installed; run: pip install libggml-python")
    prepare_ggml()
    _loaded["ggml"] = Library(found[0])
    return _loaded["ggml"]
