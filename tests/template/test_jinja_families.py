"""Chat templates of published models: every prompt, and every refusal, is that of HF transformers."""

import datetime
import re
from collections.abc import Iterable
from typing import Any

import jinja2
import pytest
from tests.template import families
from tests.template.published import NAMES, published_templates
from tests.template.talks import CALLED, EXTRAS, RESULT, TALKS, Talk, assistant, system, user
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from puna.errors import PunaError
from puna.template.jinja import render_chat
from puna.template.shield import shield

pytestmark = pytest.mark.transformers

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
# What transformers raises where a template refuses or fails, and for a conversation without messages.
REFUSALS = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
WRITTEN = {
    **{name: template for name, (template, *_) in families.FOUND.items()},
    **{name: template for name, template in families.REFUSED.items() if name != "endless"},
}
OFTEN = ("tools", "simple tools, closed", "no thinking", "other switches")
CONSTRUCTS = {
    "generation": (
        "{% set a = 1 %}{% for m in messages %}{% generation %}  {% set a = 2 %}{% set b = 3 %}"
        "{{ m.content }}{{ a }}\n{% endgeneration %}{{ a }}{{ b is defined }}{% endfor %}"
    ),
    "loop controls": (
        "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.role }}"
        "{% if loop.index > 2 %}{% break %}{% endif %}{% endfor %}"
    ),
    "json": (
        "{{ tools | tojson }}{{ tools | tojson(indent=2) }}{{ tools | tojson(ensure_ascii=True) }}"
        "{{ tools | tojson(separators=(',', ':'), sort_keys=true) }}{{ messages | tojson(indent=0) }}"
        "{{ '\\ud83d\\\\ufdd0 é😀' | tojson(ensure_ascii=True) }}"
    ),
    "dates": "{{ strftime_now('%d %b %Y, %H:%M %A %j %%') }}",
    "dicts": (
        "{% set d = dict(a=1, b='é') %}{{ d }}{{ dict.fromkeys(['x', 'y'], 0) }}"
        "{{ dict([('k', 1)]) | items | list }}"
        "{% for k, v in d.items() %}{{ k }}{{ v }}{% endfor %}{% for k, v in d | items %}{{ k }}"
        "{{ v }}{% endfor %}"
        "{{ d.get('c', 'none') }}{{ d.keys() | list }}{{ d.values() | list }}{{ 'a' in d }}"
        "{{ d | dictsort(true) }}"
    ),
    "namespaces": (
        "{% set n = namespace(a=1, items=['x']) %}{% for m in messages %}{% set n.a = n.a + 1 %}"
        "{% set n.items = n.items + [m.role] %}{% endfor %}{{ n.a }}{{ n.items | join('/') }}{{ n['a'] }}"
        "{{ n.b is defined }}"
    ),
    "forbidden names": "{% set n = namespace(_a=1) %}{{ n._a }}",
    "filters": (
        "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='role') | list }}"
        "{{ messages | rejectattr('content') | list | length }}"
        "{{ messages | map(attribute='role') | unique | list }}"
        "{{ messages | groupby('role') | list | length }}{{ [3, 1, 2] | sort(reverse=true) | first }}"
        "{{ [3, 1, 2] | sum }}{{ 'a b' | title | replace(' ', '_') }}{{ 2.567 | round(1) }}"
        "{{ '7' | int + 1 }}"
        "{{ none | default('x', true) }}{{ 'abcdef' | truncate(4) }}{{ ' a ' | trim | e }}"
        "{{ [1, [2]] | string }}"
        "{{ {'b': 1, 'a': 2} | dictsort }}{{ 'a\nb' | indent(3, true) }}{{ [] | last is undefined }}"
    ),
    "methods": (
        "{% set s = messages[0].content | string %}{{ s.strip().split(' ') }}{{ s.rstrip('\n').upper() }}"
        "{{ s.find('W') }}{{ s.startswith(' ') }}{{ s.partition('is') }}{{ ' '.join(['a', 'b']) }}"
        "{{ s.title() }}"
        "{{ '{} {a}'.format(1, a=2) }}{{ s.splitlines() }}{{ s.count('e') }}{{ 'x'.join('abc') }}"
        "{{ s[::-1] }}"
        "{{ '%s-%05.1f' % ('a', 2) }}{{ '%(k)s' % {'k': 1} }}{{ [1, 2].index(2) }}{{ 'ab'.zfill(4) }}"
    ),
    "changing a list": "{{ messages.append(1) }}",
    "changing a dict": "{{ messages[0].update(a=1) }}",
    "changing a dict by its class": "{{ dict.update(messages[0], {'a': 1}) }}",
    "macros": (
        "{% macro t(m, sep=': ') %}{{ m.role ~ sep }}{{ caller() if caller else varargs }}{% endmacro %}"
        "{% for m in messages %}{{ t(m, '= ', 1) }}{% call t(m) %}[{{ m.content }}]{% endcall %}{% endfor %}"
    ),
    "blocks": (
        "{% set x %}\n  {% filter upper %} a {{ messages[0].role }}{% endfilter %}\n{% endset %}[{{ x }}]\n"
        "   {% if true %}\n   b\n   {%- endif +%}\n  {#- c -#}  d\n\n{% raw %}{{ e }}{% endraw %}\n"
    ),
    "printing": "{{ messages }}{{ none }}{{ true }}{{ 1.0 }}{{ 10 ** 20 }}{{ missing }}",
}


class Morning(datetime.datetime):
    """A clock that stands still."""

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> "Morning":
        return cls(2026, 3, 4, 9, 5, 6, tzinfo=tz)


@pytest.fixture(scope="module")
def judge() -> PreTrainedTokenizerFast:
    model = WordLevel({"<s>": 0, "</s>": 1, "?": 2}, unk_token="?")
    # Has no annotations.
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # transformers has no types here
        tokenizer_object=Tokenizer(model), **TOKENS
    )


@pytest.fixture(scope="module")
def published() -> dict[str, str]:
    return published_templates()


@pytest.fixture(autouse=True)
def morning(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("puna.template.jinja", "transformers.utils.chat_template_utils"):
        monkeypatch.setattr(f"{module}.datetime", Morning)


def expected(judge: PreTrainedTokenizerFast, template: str, talk: Talk, extra: dict[str, Any]) -> Any:
    arguments = {"add_generation_prompt": True, **extra}
    try:
        return judge.apply_chat_template(talk, chat_template=template, tokenize=False, **arguments)
    except REFUSALS:
        return None


def rendered(template: str, talk: Talk, extra: dict[str, Any]) -> str | None:
    variables: dict[str, Any] = {**TOKENS, **extra}
    try:
        return render_chat(template, talk, **variables)
    except PunaError:
        return None


def compare(judge: PreTrainedTokenizerFast, template: str, extras: Iterable[str]) -> int:
    """Compares every conversation with these extras; gives back how many the template takes."""
    taken = 0
    for extra in extras:
        for name, talk in TALKS.items():
            wanted = expected(judge, template, talk, EXTRAS[extra])
            assert rendered(template, talk, EXTRAS[extra]) == wanted, f"{name}, {extra}"
            taken += wanted is not None
    return taken


@pytest.mark.parametrize("name", NAMES)
def test_published_templates_render_and_refuse_as_in_transformers(
    judge: PreTrainedTokenizerFast, published: dict[str, str], name: str
) -> None:
    assert compare(judge, published[name], OFTEN) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_published_templates_with_everything_a_caller_may_give(
    judge: PreTrainedTokenizerFast, published: dict[str, str], name: str
) -> None:
    assert compare(judge, published[name], EXTRAS) > 0


@pytest.mark.parametrize("name", WRITTEN)
def test_written_templates_render_and_refuse_as_in_transformers(
    judge: PreTrainedTokenizerFast, name: str
) -> None:
    assert compare(judge, WRITTEN[name], OFTEN) > 0 or name in ("broken", "failing")


# What looks like a control token: <|im_end|>, </s>, [INST], <｜User｜> …
CONTROL = re.compile(r"<[|｜/]?[^\s<>{}'\"%+~]{1,40}>|\[/?[A-Z_]{2,20}\]")


@pytest.mark.parametrize("name", NAMES)
def test_what_people_write_makes_no_control_token(published: dict[str, str], name: str) -> None:
    template = published[name]
    controls = sorted({*CONTROL.findall(template), *TOKENS.values(), "<|im_start|>", "<|eot_id|>"})
    spoof = "".join(f"a{text}system\n{text[:2]}{text}{text[2:]}" for text in controls)
    counts = []
    for said in ("b", spoof):
        talk = [system(said), user(said), assistant(said), user(said), CALLED, {**RESULT, "content": said}]
        short = [user(said), assistant(said), user(said)]
        pieces = []
        for messages in (talk, short):
            shielded, mark = shield(messages, controls)
            text = rendered(template, shielded, EXTRAS["simple tools, closed"])
            pieces.append("refused" if text is None else text.split(mark))
        counts.append([[sum(p.count(c) for p in found) for c in controls] for found in pieces])
    assert counts[0] == counts[1]


@pytest.mark.parametrize("name", CONSTRUCTS)
def test_constructs_of_the_language(judge: PreTrainedTokenizerFast, name: str) -> None:
    for talk in TALKS.values():
        extra = EXTRAS["tools"]
        assert rendered(CONSTRUCTS[name], talk, extra) == expected(judge, CONSTRUCTS[name], talk, extra)


def test_the_collection_is_whole(published: dict[str, str]) -> None:
    assert published.keys() == {*NAMES}
