"""One exception tree for the whole package.

PunaError                      every error a user can cause or meet; its text is one clear sentence
├── InvalidOption              an option or argument that makes no sense
├── FormatError                a file that is not what it claims to be
│   ├── GGUFError              a GGUF file with a wrong field: names the offset and the field
│   ├── ModelfileError         a Modelfile with a fault: names the line and the column
│   └── TemplateError          a prompt template with a fault: names the line and the column
├── ModelError                 a model that cannot be built from its file
│   ├── UnsupportedModel       an architecture, tokenizer or tensor type that is not implemented
│   ├── WeightError            a tensor that is missing, unused or of the wrong shape
│   └── MissingCapability      something that the model cannot do
├── ContextLengthExceeded      a prompt longer than the context
├── OutOfMemory                a device has not the memory that is needed
│   └── InsufficientMemory     see puna.ml.memory: carries the allocations that were attempted
├── BackendError               the compute library refused an operation
├── InternalError              a fault of the program itself
├── Interrupted                a computation was stopped on purpose
├── RunnerDied                 the process that a model ran in has ended
├── Overloaded                 too much was asked for at once
├── ServerUnreachable          no server answers at an address
├── ServerError                a server answered with an error that is none of the others here
├── StoreError                 the model store cannot be read or written
│   ├── OutOfSpace             the disk has not the room that a model needs
│   └── DigestMismatch         content that is not what its digest says
└── FetchError                 a model cannot be fetched from, or pushed to, where its name points
    ├── ModelNotFound          nothing there answers to that name
    ├── Unauthorized           the registry wants credentials that it was not given
    └── AddressRefused         an address that may not be reached without the user's leave
"""

from collections.abc import Sequence


class PunaError(Exception):
    """Base of every error whose text is meant for the user."""


class InvalidOption(PunaError):
    """An option or argument that makes no sense."""


class FormatError(PunaError):
    """A file that is not what it claims to be."""


class GGUFError(FormatError):
    """A GGUF file with a wrong field."""


class ModelfileError(FormatError):
    """A Modelfile with a fault.

    Attributes:
        line: counted from 1.
        column: counted from 1, in characters.
    """

    def __init__(self, message: str, line: int, column: int) -> None:
        super().__init__(f"line {line}, column {column}: {message}")
        self.line = line
        self.column = column


class TemplateError(FormatError):
    """A prompt template with a fault.

    Attributes:
        line: counted from 1.
        column: counted from 1, in characters.
        excerpt: the line of the template, or what of it is near the fault, with a caret below; two lines.
    """

    def __init__(self, message: str, line: int = 1, column: int = 1, excerpt: str = "") -> None:
        super().__init__(f"template, line {line}, column {column}: {message}")
        self.line = line
        self.column = column
        self.excerpt = excerpt


class ModelError(PunaError):
    """A model that cannot be built from its file."""


class UnsupportedModel(ModelError):
    """An architecture, tokenizer or tensor type that is not implemented."""


class WeightError(ModelError):
    """A tensor that is missing, unused or of the wrong shape."""


class MissingCapability(ModelError):
    """Something that the model cannot do.

    Attributes:
        missing: the names of the capabilities.
        detail: the text as the API gives it, with a line for each.
    """

    def __init__(self, missing: Sequence[str], advice: str = "", subject: str = "") -> None:
        """
        Args:
            advice: a sentence for the end, without its full stop.
            subject: the model, as the text is to name it.
        """
        start, end = f"{subject} does".strip(), f". {advice}" if advice else ""
        super().__init__(f"{start} not support {', '.join(missing)}{end}")
        self.missing = tuple(missing)
        self.detail = f"{start} not support " + "\n".join(missing) + end


class ContextLengthExceeded(PunaError):
    """A prompt longer than the context.

    Attributes:
        length: tokens in the prompt.
        limit: tokens the context holds.
    """

    def __init__(self, length: int, limit: int) -> None:
        super().__init__(
            f"the prompt has {length} tokens, but the context holds {limit}; raise num_ctx or shorten it"
        )
        self.length = length
        self.limit = limit


class BackendError(PunaError):
    """The compute library refused an operation."""


class InternalError(PunaError):
    """A fault of the program itself: something is not as it must be."""


class Interrupted(PunaError):
    """A computation was stopped on purpose."""


class OutOfMemory(PunaError):
    """A device has not the memory that is needed."""


class RunnerDied(PunaError):
    """The process that a model ran in has ended."""


class Overloaded(PunaError):
    """Too much was asked for at once; later it may work.

    Attributes:
        retry_after: seconds after which to ask again.
    """

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ServerUnreachable(PunaError):
    """No server answers at an address, or not in a way that can be understood."""


class ServerError(PunaError):
    """A server answered with an error that is none of the other kinds.

    Attributes:
        status: of HTTP; None for an error in the middle of an answer.
    """

    def __init__(self, status: int | None, text: str) -> None:
        super().__init__(text)
        self.status = status


class StoreError(PunaError):
    """The model store cannot be read or written."""


class OutOfSpace(StoreError):
    """The disk has not the room that a model needs."""


class DigestMismatch(StoreError):
    """Content that is not what its digest says."""


class FetchError(PunaError):
    """A model cannot be fetched from, or pushed to, where its name points."""


class ModelNotFound(FetchError):
    """Nothing answers to that name."""


class ResponseNotFound(PunaError):
    """No answer is kept under that id, for whoever asks."""


class Unauthorized(FetchError):
    """The registry wants credentials that it was not given."""


class AddressRefused(FetchError):
    """An address that may not be reached without the user's leave."""
