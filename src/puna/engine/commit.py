"""From a sequence's logits to what its caller is told."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from puna.engine.events import Done, Event, TokenLogprob
from puna.engine.sequence import Reason
from puna.engine.sequence import Sequence as Running
from puna.ml.array import Floats
from puna.sampling.sampler import Choice


def commit(
    sequence: Running, logits: Floats, ends: Collection[int], pieces: Sequence[bytes], most: int, now: float
) -> list[Event]:
    """Chooses what comes next and appends it to the sequence; the last event is Done if it has ended.

    Args:
        logits: of the sequence's last token, F32 (vocabulary,).
        ends: ids that end an answer.
        pieces: for each id the bytes it stands for.
        most: how many tokens may come at once.
        now: seconds of the monotonic clock.

    Raises:
        InvalidOption: the answer cannot be kept to its grammar.
        BackendError: the logits make no sense.
    """
    if sequence.room < 1:
        return finish(sequence, "length", now)
    choices = sequence.chooser.choose(logits, min(sequence.room, most))
    if choices[0].token in ends:
        return finish(sequence, "stop", now)
    events: list[Event] = []
    for choice in choices:
        sequence.tokens.append(choice.token)
        sequence.generated += 1
        if chunk := sequence.transcript.feed(choice.token, _logprob(choice, pieces)):
            events.append(chunk)
        if sequence.transcript.stopped:
            break
    if sequence.transcript.stopped or sequence.chooser.complete:
        return events + finish(sequence, "stop", now)
    return events if sequence.room > 0 else events + finish(sequence, "length", now)


def finish(sequence: Running, reason: Reason, now: float) -> list[Event]:
    """What is still held back of the text, and Done."""
    done: Done = sequence.done(reason, now)
    last = sequence.transcript.finish()
    return [last, done] if last else [done]


def _logprob(choice: Choice, pieces: Sequence[bytes]) -> TokenLogprob | None:
    if choice.logprob is None:
        return None
    top = tuple(TokenLogprob(id, pieces[id], logprob) for id, logprob in choice.top_logprobs)
    return TokenLogprob(choice.token, pieces[choice.token], choice.logprob, top)
