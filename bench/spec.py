"""What drafting tokens from the text so far brings: tokens per second with it and without, in turn.

    python bench/spec.py MODEL [MODEL …] [--pairs 5] [--tokens 200] [--threads 2]

MODEL is anything `puna run` takes. What is quoted, edited or repeated is answered greedily. Free text is
drawn at temperature 0.8 with a seed, as greedy answers of small models soon repeat themselves. Prompts are
raw, so that a model that was not trained to chat copies as well. They are in the cache already, and rates are
those of generation. The ratio is the median of those within pairs. `same` tells whether both sides gave the
same text: with weights of few bits, results depend on the size of a batch a little, and the texts may part
where two tokens are about as likely.
"""

import argparse
import statistics
from dataclasses import dataclass

import puna
from puna.client.replies import GenerateReply

PASSAGE = (
    "The lighthouse at the end of the harbour was built in 1871 by Margaret Oakes, a mason's daughter who "
    "had learned her trade on the piers of Leith. It stands thirty-one metres high, and its walls are two "
    "metres thick at the foot. For ninety years three keepers lived there in turn, each for a fortnight, and "
    "carried the oil up two hundred and twelve steps every evening. When the lamp was made electric in 1961, "
    "the last of them, Peter Lindqvist, stayed on as a guide. He kept a notebook of every ship that passed, "
    "with its flag, its cargo as far as he could guess it, and the weather. The notebooks fill a shelf in "
    "the town's library, where children still look up the ships that came on the day they were born."
)
RECORDS = """[
  {"id": 1041, "name": "Ada Whitfield", "city": "Leeds", "active": true, "tags": ["north", "wholesale"]},
  {"id": 1042, "name": "Jorge Salinas", "city": "Porto", "active": false, "tags": ["south"]},
  {"id": 1043, "name": "Mei Tanaka", "city": "Osaka", "active": true, "tags": ["east", "retail", "new"]},
  {"id": 1044, "name": "Olu Adeyemi", "city": "Lagos", "active": true, "tags": []},
  {"id": 1045, "name": "Ines Robledo", "city": "Lima", "active": false, "tags": ["west", "retail"]}
]"""
CODE = '''def total_price(items, discount):
    """Sums the prices of items and takes the discount off."""
    total = 0
    for item in items:
        if item.price < 0:
            raise ValueError("a price is below zero")
        total = total + item.price * item.count
    if discount > 0:
        total = total - total * discount
    return total


def print_receipt(items, discount):
    for item in items:
        print(item.name, item.count, item.price)
    print("total", total_price(items, discount))
'''
COPIED = {
    "quote a passage": f"A text:\n\n{PASSAGE}\n\nThe same text, word for word:\n\n",
    "edit a passage": f"A text:\n\n{PASSAGE}\n\nThe same text, with Anna Berg in place of Margaret Oakes:\n\n"
    "The lighthouse at the end of the harbour was built in 1871 by Anna Berg",
    "echo JSON": f"A JSON document:\n\n{RECORDS}\n\nThe same JSON document again:\n\n",
    "echo code": f"A Python module:\n\n{CODE}\nThe same Python module again:\n\n",
}
FREE = {
    "a story": "The girl found the map in her grandmother's attic, under a box of letters. It showed",
    "an explanation": "The sky is blue during the day and red in the evening. The reason is that light",
    "a letter": "Dear Tom,\n\nyou ask about my new job in the bakery. Every morning",
    "a recipe": "How to cook a vegetable soup for four people.\n\nFirst, you need the following ingredients.",
}
ALWAYS, NEVER = -1, 0


@dataclass(frozen=True, slots=True)
class Task:
    """What is asked of a model, and how it is answered."""

    name: str
    prompt: str
    temperature: float


TASKS = [
    *(Task(name, prompt, 0) for name, prompt in COPIED.items()),
    *(Task(name, prompt, 0.8) for name, prompt in FREE.items()),
]


def answer(model: puna.Model, task: Task, tokens: int, draft: int) -> GenerateReply:
    """A whole answer, with drafts or without."""
    options = {"temperature": task.temperature, "seed": 7, "num_predict": tokens, "draft_num_predict": draft}
    return model.generate(task.prompt, raw=True, options=options)


def rate(reply: GenerateReply) -> float:
    """Tokens per second."""
    return reply.eval_count / reply.eval_duration * 1e9


def compare(model: puna.Model, task: Task, pairs: int, tokens: int) -> str:
    """A line of the table."""
    found = [
        (answer(model, task, tokens, NEVER), answer(model, task, tokens, ALWAYS)) for _ in range(pairs + 1)
    ][1:]
    median = statistics.median
    without, drafted = (median(map(rate, side)) for side in zip(*found, strict=True))
    ratios = [rate(drafted) / rate(without) for without, drafted in found]
    last = found[-1][1]
    same = "yes" if found[-1][0].response == last.response else "no"
    accepted = f"{last.draft_accepted_count} of {last.draft_count}"
    return (
        f"| {task.name} | {last.eval_count} | {without:.1f} | {drafted:.1f} | {median(ratios):.2f} "
        f"| {min(ratios):.2f} … {max(ratios):.2f} | {accepted} | {same} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="What drafting tokens from the text so far brings.")
    parser.add_argument("models", metavar="MODEL", nargs="+")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--only", choices=["copied", "free"], help="leave the other tasks out")
    arguments = parser.parse_args()
    wanted = {"copied": COPIED, "free": FREE}.get(arguments.only, {**COPIED, **FREE})
    chosen = [task for task in TASKS if task.name in wanted]
    for name in arguments.models:
        with puna.load(name, num_ctx=2048, num_thread=arguments.threads) as model:
            print(f"\n{name}\n")
            print("| task | tokens | without, tokens/s | with | ratio | pairs | accepted | same |")
            print("| :--- | ---: | ---: | ---: | ---: | :---: | ---: | :---: |")
            for task in chosen:
                print(compare(model, task, arguments.pairs, arguments.tokens), flush=True)


if __name__ == "__main__":
    main()
