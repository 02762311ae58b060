"""The ggml C library: prototypes, layouts, enumerations and one loader. The only ctypes in Puna.

library = puna.ggml.load()
context = library.ggml_init(ggml_init_params(1 << 20, None, True))
tensor = library.ggml_new_tensor_1d(context, Type.F32, 8)
library.tensor(tensor).ne[0]
"""

from puna.ggml.library import ABORT_STATUS, Library, load
from puna.ggml.locate import Candidate, candidates

__all__ = ["ABORT_STATUS", "Candidate", "Library", "candidates", "load"]
