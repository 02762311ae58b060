"""Chat templates that mean harm: each ends in one error, soon and within little memory."""

import contextlib
import json
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from puna.errors import ModelError
from puna.template import limits
from puna.template.jinja import render_chat
from puna.template.limits import Allowance

MEMORY = 1024 << 20
SECONDS = 3.0
"""Of the processor: three times what is allowed, as two threads may share one."""

MESSAGES = [{"role": "user", "content": "x"}]

CHILD = """
import json, sys, time
from puna.errors import ModelError
from puna.template.jinja import _compile, render_chat
began = time.thread_time()
for name, template in json.load(sys.stdin).items():
    try:
        _compile(template)
        began = time.thread_time()
        found = f"{len(render_chat(template, [{'role': 'user', 'content': 'x'}]))} characters"
    except (ModelError, MemoryError) as error:
        found = f"{type(error).__name__}: {error}"
    print(json.dumps([name, found, time.thread_time() - began]), flush=True)
"""

GROWING = "{% set n = namespace(x=['a']) %}{% for i in range(60) %}{% set n.x = … %}{% endfor %}"
OTHER = GROWING.replace("set n =", "set m =").replace("set n.x", "set m.x")
LONG = "('a' * 1000000)"
LIST = "{% set x = range(99999) | list %}"
PATH = "real" + ".real" * 20_000
COLLIDING = f"range(0, {99999 * (2**61 - 1)}, {2**61 - 1})"
FAR_BACK = "('b' + 'a' * 2000000)"

BOMBS = {
    # Small things that are long once they are printed.
    "a list of itself": GROWING.replace("…", "[n.x, n.x]") + "{{ n.x }}",
    "a dict of itself, as JSON": GROWING.replace("…", "{'a': n.x, 'b': n.x}") + "{{ n.x | tojson }}",
    "a tuple of itself": GROWING.replace("…", "(n.x, n.x)") + "{{ n.x | string }}",
    "a dict made by a call": GROWING.replace("…", "dict(a=n.x, b=n.x)") + "{{ n.x ~ '' }}",
    "a dict made from keys": GROWING.replace("…", "dict.fromkeys('ab', n.x)") + "{{ n.x | upper }}",
    "lists added": GROWING.replace("['a']", f"[[{LONG}]]").replace("…", "n.x + n.x") + "{{ n.x | string }}",
    "lists repeated": f"{{% set x = [[{LONG}] * 1000] * 1000 %}}{{{{ x }}}}",
    "groups": "{% set n = namespace(x=[(" + LONG + ", 1)]) %}{% for i in range(9999) %}"
    "{% set n.x = n.x | groupby(0) %}{% endfor %}{{ n.x }}",
    "lists compared": GROWING.replace("…", "[n.x, n.x]")
    + OTHER.replace("…", "[m.x, m.x]")
    + "{{ n.x == m.x }}",
    # One operation with a large result.
    "format": "{{ ('{0}' * 100000).format(" + LONG + ") }}",
    "format_map": "{{ ('{a}' * 100000).format_map({'a': " + LONG + "}) }}",
    "format of a namespace's": "{{ ('{0.x}' * 100000).format(namespace(x=" + LONG + ")) }}",
    "format of marked text": "{{ (('{0}' * 100000) | safe).format(" + LONG + ") }}",
    "percent": "{{ ('%(a)s' * 100000) % {'a': " + LONG + "} }}",
    "percent of marked text": "{{ (('%(a)s' * 100000) | safe) % {'a': " + LONG + "} }}",
    "the filter format": "{{ ('%(a)s' * 100000) | format(a=" + LONG + ") }}",
    "a text joined": "{{ " + LONG + ".join('b' * 1000000) }}",
    "what is mapped joined": "{{ " + LONG + ".join(('b' * 60000) | map('upper')) }}",
    "translate": "{{ " + LONG + ".translate({97: 'b' * 1000000}) }}",
    "bytes": "{{ 'a'.encode() * 10 ** 10 }}",
    "bytes padded": "{{ 'a'.encode().ljust(10 ** 10) }}",
    "a number's bytes": "{{ (1).to_bytes(10 ** 10, 'big') }}",
    "separators": "{{ ([1] * 100000) | tojson(separators=('a' * 1000000, ':')) }}",
    "indented JSON": "{% set n = namespace(x=[1] * 100000) %}{% for i in range(900) %}"
    "{% set n.x = [n.x] %}{% endfor %}{{ n.x | tojson(indent=16) }}",
    "a text's characters": "{{ ('é' * 30000000) | list }}",
    "a text's words": "{{ ('ab ' * 10000000).split() }}",
    "a text's parts": "{{ ('ab,' * 10000000).split(',') }}",
    "a text's lines": "{{ ('ab\n' * 10000000).splitlines() }}",
    "titles": "{{ ('a ' * 15000000) | title }}",
    "addresses": "{{ ('é' * 30000000) | urlencode }}",
    "a short text cut": "{{ 'a b' | truncate(1, true, 'xxxx') }}",
    # One operation that takes long.
    "rounding up": "{{ 1 | round(10 ** 9, 'ceil') }}",
    "rounding a whole number": "{{ 1 | round(-(10 ** 9)) }}",
    "products": "{% set n = namespace(x=7 ** 20000) %}{% for i in range(30) %}"
    "{% set n.x = n.x * n.x %}{% endfor %}",
    "tags": "{{ ('<!---->' * 4000000) | striptags }}",
    "tags of marked text": "{{ (('<!---->' * 4000000) | safe).striptags() }}",
    "sums of lists": "{{ ([[1]] * 200000) | sum(start=[]) }}",
    # One operation that looks at everything for each of many things, and at no clock.
    **{
        f"a long path: {name}": f"{{{{ range(99999) | {name}{argument}'{PATH}') | string }}}}"
        for name, argument in {
            "sort": "(attribute=",
            "groupby": "(",
            "join": "('', attribute=",
            "sum": "(",
            "max": "(attribute=",
        }.items()
    },
    **{
        f"searching backwards: {name}": "{{ ('a' * 4000000)." + name + "(" + FAR_BACK + ") }}"
        for name in ("rfind", "rindex", "rsplit", "rpartition")
    },
    **{
        f"stripping: {name}": "{{ ('a' * 4000000)" + name + "('b' * 2000000 ~ 'a') }}"
        for name in (".strip", ".lstrip", ".rstrip", "|trim")
    },
    "numbers of one hash": "{{ dict.fromkeys(" + COLLIDING + ") | length }}",
    "numbers of one hash made a dict": "{{ dict(" + COLLIDING + " | map('string') | map('list')) }}",
    "unique numbers of one hash": "{{ " + COLLIDING + " | unique | list | length }}",
    "a quotient": "{{ ('1' * 4000000) | int(base=2) // (('1' * 2000000) | int(base=2)) }}",
    "a remainder": "{{ ('1' * 4000000) | int(base=2) % (('1' * 2000000) | int(base=2)) }}",
    "filters of filters": "{{ (range(99999) | list" + "|map(attribute='real')" * 90 + ") | list }}",
    # Many operations.
    "loops within loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "a macro in itself": "{% macro a() %}{{ a() }}{{ a() }}{% endmacro %}{{ a() }}",
    "numbers listed": "{{ range(10 ** 12) | list }}",
    "a text repeated": "{{ 'a' * 10 ** 10 }}",
    "a list repeated": "{{ [0] * 10 ** 9 }}",
    "a wide number": "{{ '%999999999d' | format(1) }}",
    "a centred text": "{{ 'x' | center(10 ** 9) }}",
    "a power": "{{ 9 ** (9 ** 9) }}",
    "replacements": "{% set s = 'a' * 4000000 %}" + "{{ s | replace('a', 'b') | length }}" * 2000,
    "many groups": "{{ range(99999) | groupby('real') }}",
    "groupings": "{{ range(30000) | groupby('real') | length }}" * 500,
    "fixed text": "{% set x %}{% for i in range(99999) %}" + "a" * 100_000 + "{% endfor %}{% endset %}",
    "texts kept": "{% set s = 'a' * 30000000 %}" + "{{ s | upper | length }}" * 100,
    "slices": LIST + "{{ x[:] | length }}" * 2000,
    "lists": "{{ range(99999) | list | length }}" * 2000,
    "searches": "{% set s = 'a' * 30000000 %}" + "{% if 'ab' in s %}{% endif %}" * 4000,
    "sorts": LIST + "{{ x | sort | length }}" * 3000,
    "a date": "{{ strftime_now('%_9999999Y') }}",
    "blocks within blocks": "{% block a %}{{ self.a() }}{{ self.a() }}{% endblock %}",
    "a loop in itself": "{% for a in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}",
    # Templates that are hard to read.
    "deep ifs": "{% if 1 %}" * 10_000,
    "deep brackets": "{{ " + "(" * 50_000 + "1" + ")" * 50_000 + " }}",
    "deep lists": "{{ " + "[" * 50_000 + "1" + "]" * 50_000 + " }}",
    "deep signs": "{{ " + "-" * 100_000 + "1 }}",
    "deep attributes": "{{ a" + ".b" * 50_000 + " }}",
    "deep sums": "{{ 1" + "+1" * 50_000 + " }}",
    "deep filters": "{{ 1" + "|abs" * 20_000 + " }}",
    "deep loops": "{% for a in [1] %}" * 30 + "{% endfor %}" * 30,
    "many digits": "{{ " + "1" * 100_000 + " }}",
    "open comments": "{#" * 60_000,
    "an open tag": "{%" + " " * 100_000,
    "an open text": "{{ '" + "a\\" * 50_000 + " }}",
    "too long": "x" * (129 << 10),
}


def limited() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def test_every_bomb_is_one_error_within_little_memory() -> None:
    result = subprocess.run(
        [sys.executable, "-c", CHILD],
        input=json.dumps(BOMBS),
        capture_output=True,
        encoding="utf-8",
        preexec_fn=limited,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    found = {name: text for name, text, _ in lines}
    assert found.keys() == BOMBS.keys()
    assert [(name, text, seconds) for name, text, seconds in lines if seconds > SECONDS] == []
    assert {
        name: text for name, text in found.items() if not text.startswith("ModelError: the model's")
    } == {}


@pytest.mark.parametrize(
    "expression",
    [
        "cycler.__init__.__globals__.os.popen('touch marker').read()",
        "joiner.__init__.__globals__.os.popen('touch marker').read()",
        "lipsum.__globals__.os.popen('touch marker').read()",
        "self.__init__.__globals__.__builtins__.__import__('os').popen('touch marker').read()",
        "self._TemplateReference__context.environment.from_string('a')",
        "namespace.__init__.__globals__.os.popen('touch marker').read()",
        "dict.__call__.__globals__['json']",
        "raise_exception.__globals__.json",
        "().__class__.__base__.__subclasses__()",
        "messages[0]['content'].__class__.mro()",
        "messages[0]|attr('__class__')",
        "'%s' % messages.__class__",
        "'{0.__class__.__mro__}'.format(messages)",
        "'{a.__init__.__globals__}'.format_map({'a': namespace})",
        "['__class__'] | map('attr', '__base__') | list",
        "(messages | map(attribute='__class__') | list)[0].mro()",
        "messages.append(1)",
        "messages[0].update(role='system')",
        "messages[0].pop('role')",
        "dict.update(messages[0], {'role': 'system'})",
        "namespace(__class__=1)",
        "namespace(jinja_pass_arg=1)",
        "loop.__init__",
    ],
)
def test_nothing_of_python_is_reached_and_nothing_changes(
    expression: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    messages = [{"role": "user", "content": "a"}]
    try:
        text = render_chat("{{ " + expression + " }}", messages)
        assert text in ("", "Undefined", "[Undefined]") or "class" not in text
    except ModelError as error:
        assert str(error).startswith("the model's chat template")
    assert messages == [{"role": "user", "content": "a"}]
    assert os.listdir(tmp_path) == []


def test_a_caller_finds_the_sandbox_as_it_was_after_a_bomb() -> None:
    with pytest.raises(ModelError):
        render_chat(BOMBS["a list of itself"], MESSAGES)
    assert render_chat("{{ messages[0].content }}{{ [1, 2] }}", MESSAGES) == "x[1, 2]"


def test_objects_that_a_caller_left_in_a_message_are_out_of_reach() -> None:
    messages = [
        {"role": "user", "content": "a", "images": [b"xy", Path("/etc")], "more": {"tuple": (1, 2.5)}}
    ]
    template = "{{ messages[0].images }}{{ messages[0].more }}{{ messages[0].images[1].parent is defined }}"
    assert render_chat(template, messages) == "['<bytes>', '<PosixPath>']{'tuple': [1, 2.5]}False"


def test_what_templates_do_in_earnest_is_within_the_bounds() -> None:
    template = (
        "{% set ns = namespace(seen=[]) %}{% for m in messages %}{% set ns.seen = ns.seen + [m.role] %}"
        "{% set rest = messages[loop.index0:] %}{% if m.content is string and m.content.strip() != '' %}"
        "{{ m.content.split('</think>')[-1].lstrip('\\n') | trim }}{% endif %}"
        "{{ (messages | length - loop.index) ~ (rest | selectattr('role', 'equalto', 'tool') | list) }}"
        "{% endfor %}"
    )
    messages = [{"role": "user", "content": "word " * 10_000}] * 500
    assert len(render_chat(template, messages)) > 24_000_000


LONG_TALK = [{"role": ("user", "assistant")[turn % 2], "content": "word " * 20} for turn in range(999)]


def test_what_is_allowed_grows_with_the_conversation() -> None:
    small, large, many = Allowance.of(300, 3), Allowance.of(10 << 20, 3), Allowance.of(100_000, 1000)
    assert small.seconds < 1.02
    assert 10 < large.seconds < 12
    assert many.seconds < 6
    assert Allowance.of(100_000, 10**6) == many
    assert small.value < (4 << 20) + 2000
    assert large.value == (44 << 20)
    assert small.steps < 160_000
    assert many.steps > 5 * 127_000


@pytest.mark.parametrize(
    "template",
    [
        # Looks back at all earlier messages for each, as one published template does.
        "{% for m in messages %}{% set n = namespace(user=0) %}{% for k in messages[:loop.index] %}"
        "{% if k.role == 'user' %}{% set n.user = n.user + 1 %}{% endif %}{% endfor %}{% endfor %}done",
        # Copies the list of what was for each, as another does.
        "{% set n = namespace(all=[]) %}{% for m in messages %}{% set n.all = n.all + [m] %}{% endfor %}"
        "{{ n.all | length }}",
    ],
)
def test_a_long_conversation_may_be_looked_at_again_for_each_message(template: str) -> None:
    assert render_chat(template, LONG_TALK)


def test_a_loop_that_is_fine_in_a_long_conversation_is_too_long_in_a_short_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The steps are to end it, on a slow machine too.
    monkeypatch.setattr(limits, "_SECONDS_ALLOWED", (60.0, 0.0, 0.0))
    template = "{% for i in range(99999) %}{% for j in [1, 2] %}{% endfor %}{% endfor %}done"
    with pytest.raises(ModelError, match=r"more than 150[0-9]+ steps"):
        render_chat(template, MESSAGES)
    assert render_chat(template, LONG_TALK) == "done"


def test_one_text_may_be_four_times_as_long_as_the_conversation() -> None:
    template = "{{ messages[0].content * … }}"
    messages = [{"role": "user", "content": "a" * (2 << 20)}]
    assert len(render_chat(template.replace("…", "5"), messages)) == 10 << 20
    with pytest.raises(ModelError, match="too much text"):
        render_chat(template.replace("…", "7"), messages)
    with pytest.raises(ModelError, match="too much text"):
        render_chat("{{ 'a' * 4300000 }}", MESSAGES)


def test_other_threads_go_on_while_a_template_is_stopped() -> None:
    """Between any two operations of a template another thread may run: the longest one is short."""
    turns = 0
    rendering = threading.Thread(target=_render_quietly, args=(BOMBS["sorts"],))
    rendering.start()
    while rendering.is_alive():
        turns += 1
        rendering.join(0.001)
    assert turns > 10


def _render_quietly(template: str) -> None:
    with contextlib.suppress(ModelError):
        render_chat(template, MESSAGES)
