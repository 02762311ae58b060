"""The server's log: one line for each event, `time=… level=… msg=… key=value`, or a JSON object."""

import json
import logging
import re
import sys
from collections.abc import Mapping
from datetime import datetime
from typing import Any, TextIO

LOGGERS = ("puna", "uvicorn")
_PLAIN = re.compile(r"[A-Za-z0-9_./:@+*{}-]+", re.ASCII)
_LONGEST = 400
_LONGEST_TRACE = 8000
_FACTS = "puna_facts"


def facts(**values: Any) -> dict[str, Any]:
    """The `extra` of a log call: what follows the message. What is None or empty is left out."""
    return {_FACTS: {key: value for key, value in values.items() if value not in (None, "")}}


class TextFormatter(logging.Formatter):
    """Lines as Ollama's log has them. What strangers have written is quoted, so that it stays on its line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line."""
        return " ".join(f"{key}={_quoted(value)}" for key, value in _values(record).items())


class JsonFormatter(logging.Formatter):
    """The same in JSON, for programs."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line."""
        return json.dumps(
            {
                key: value if isinstance(value, int | float) else _cut(str(value), key)
                for key, value in _values(record).items()
            }
        )


def configure(level: int, format_name: str, stream: TextIO | None = None) -> None:
    """Have the server's loggers write to standard error, or to `stream`.

    Args:
        format_name: `text` or `json`.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if format_name == "json" else TextFormatter())
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(level if name == "puna" else max(level, logging.WARNING))
        logger.propagate = False


def _values(record: logging.LogRecord) -> Mapping[str, Any]:
    moment = datetime.fromtimestamp(record.created).astimezone()
    values: dict[str, Any] = {
        "time": moment.isoformat(timespec="milliseconds"),
        "level": record.levelname,
        "msg": record.getMessage(),
        **record.__dict__.get(_FACTS, {}),
    }
    if record.exc_info:
        values["error"] = logging.Formatter().formatException(record.exc_info)
    return values


def _quoted(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    return text if _PLAIN.fullmatch(text) and len(text) <= _LONGEST else json.dumps(_cut(text, ""))


def _cut(text: str, key: str) -> str:
    most = _LONGEST_TRACE if key == "error" or text.startswith("Traceback") else _LONGEST
    return text if len(text) <= most else text[: most // 2] + "…" + text[-most // 2 :]
