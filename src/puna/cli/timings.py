"""Timings of an answer, as Ollama prints them."""

from puna.client.replies import Answer
from puna.humanize import duration_text


def timing_lines(last: Answer) -> list[str]:
    """The lines for an answer's last reply; what is zero is left out."""
    rows: list[tuple[str, str]] = []
    for label, duration in (("total", last.total_duration), ("load", last.load_duration)):
        if duration > 0:
            rows.append((f"{label} duration:", duration_text(duration / 1e9)))
    parts = (
        ("prompt eval", last.prompt_eval_count, last.prompt_eval_duration),
        ("eval", last.eval_count, last.eval_duration),
    )
    for label, count, duration in parts:
        if count > 0:
            rows.append((f"{label} count:", f"{count} token(s)"))
        if duration > 0:
            rows.append((f"{label} duration:", duration_text(duration / 1e9)))
            rows.append((f"{label} rate:", f"{count / (duration / 1e9):.2f} tokens/s"))
    if last.draft_count > 0:
        rows.append(("drafts accepted:", f"{last.draft_accepted_count} of {last.draft_count} token(s)"))
    return [f"{label:<22}{value}" for label, value in rows]
