"""Numbers as people read them, in Ollama's forms (its `format` package and Go's `time.Duration`)."""

import re

_BYTE_UNITS = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "KB"))

_DURATION_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9}
_DURATION_UNITS |= {"h": 3600 * 10**9}
_DURATION_PART = re.compile(r"([0-9]{0,20})(?:\.([0-9]{0,20}))?([a-zµμ]{1,2})", re.ASCII)
_LONGEST_DURATION = 2**63 - 1  # nanoseconds in Go
_YEAR_HOURS = 24 * 365


def bytes_text(count: int) -> str:
    """A size in decimal units: whole from ten on, one decimal below (`93 MB`, `4.7 GB`, `512 B`)."""
    for unit, name in _BYTE_UNITS:
        if count >= unit:
            value = count / unit
            return f"{int(value)} {name}" if value >= 10 or value.is_integer() else f"{value:.1f} {name}"
    return f"{count} B"


def count_text(count: int) -> str:
    """A number of parameters: `8B`, `1.5B`, `134.52M`, `12K`, `999`."""
    if count >= 10**9:
        value = count / 10**9
        return f"{value:.0f}B" if value.is_integer() else f"{value:.1f}B"
    if count >= 10**6:
        value = count / 10**6
        return f"{value:.0f}M" if value.is_integer() else f"{value:.2f}M"
    return f"{count / 1000:.0f}K" if count >= 1000 else str(count)


def duration_text(seconds: float) -> str:
    """A duration as Go prints one: `1.234567891s`, `12.5ms`, `1m2.5s`, `1h0m0s`, `0s`."""
    nanoseconds = round(abs(seconds) * 10**9)
    sign = "-" if seconds < 0 and nanoseconds else ""
    if nanoseconds == 0:
        return "0s"
    for limit, unit, name in ((10**3, 1, "ns"), (10**6, 10**3, "µs"), (10**9, 10**6, "ms")):
        if nanoseconds < limit:
            return f"{sign}{_decimal(nanoseconds, unit)}{name}"
    minutes, rest = divmod(nanoseconds, 60 * 10**9)
    hours, minutes = divmod(minutes, 60)
    head = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{sign}{head}{_decimal(rest, 10**9)}s"


def duration_seconds(text: str) -> float:
    """Seconds of a duration as Go reads one: `300ms`, `1.5h`, `1h30m`, `-2m`, `0`.

    Raises:
        ValueError: the text is none, or longer than Go can hold.
    """
    body = text.removeprefix("-") if text.startswith("-") else text.removeprefix("+")
    if body == "0":
        return 0.0
    nanoseconds, place = 0, 0
    while match := _DURATION_PART.match(body, place):
        whole, fraction, unit = match[1], match[2] or "", match[3]
        if not whole + fraction or unit not in _DURATION_UNITS:
            break
        nanoseconds += int(whole + fraction or "0") * _DURATION_UNITS[unit] // 10 ** len(fraction)
        place = match.end()
    if not body or place < len(body) or nanoseconds > _LONGEST_DURATION:
        raise ValueError(f"{text[:100]!r} is no duration such as 90s, 1h30m or 0")
    return (-nanoseconds if text.startswith("-") else nanoseconds) / 10**9


def duration_words(seconds: float) -> str:
    """A duration as people say it: `Less than a second`, `About an hour`, `3 weeks`."""
    if seconds < 1:
        return "Less than a second"
    if seconds < 60:
        return "1 second" if seconds < 2 else f"{int(seconds)} seconds"
    if seconds < 3600:
        return "About a minute" if seconds < 120 else f"{int(seconds / 60)} minutes"
    hours = int(seconds / 3600 + 0.5)
    for limit, unit, name in ((48, 1, "hours"), (14 * 24, 24, "days"), (60 * 24, 7 * 24, "weeks")):
        if hours < limit:
            return "About an hour" if hours == 1 else f"{hours // unit} {name}"
    if hours < 2 * _YEAR_HOURS:
        return f"{hours // (30 * 24)} months"
    return f"{int(seconds / 3600) // _YEAR_HOURS} years"


def moment_text(moment: float, now: float) -> str:
    """How long ago a moment was, or how far it is: `2 days ago`, `4 minutes from now`, `Forever`.

    Args:
        moment: seconds since 1970.
        now: the same.
    """
    if moment > now:
        far = int((moment - now) / 3600) // _YEAR_HOURS > 20
        return "Forever" if far else f"{duration_words(moment - now)} from now"
    return f"{duration_words(now - moment)} ago"


def seconds_left_text(seconds: float) -> str:
    """A waiting time in whole seconds: `4s`, `1m5s`, `2h3m`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def _decimal(count: int, unit: int) -> str:
    whole, rest = divmod(count, unit)
    if not rest:
        return str(whole)
    digits = len(str(unit)) - 1
    return f"{whole}.{rest:0{digits}d}".rstrip("0")
