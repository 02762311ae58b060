"""Numbers as people read them, in Ollama's forms (its `format` package and Go's `time.Duration`)."""

_BYTE_UNITS = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "KB"))


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
