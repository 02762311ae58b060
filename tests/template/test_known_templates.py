"""The known templates: recognised by what they do, and never mistaken for another."""

import pytest
from tests.template import families

from puna.template.go import parse
from puna.template.known import STOPS, detect, known_template, template_text

HELLO = [{"role": "user", "content": "Hello"}]


@pytest.mark.parametrize("family", families.FOUND)
def test_a_family_is_found_by_its_prompts(family: str) -> None:
    chat_template, bos, eos, expected = families.FOUND[family]
    found = detect(chat_template, bos_token=bos, eos_token=eos)
    assert found is not None
    assert (found.name, found.strips, found.takes_system) == expected
    assert (found.template, found.stop) == (template_text(found.name), STOPS[found.name])


@pytest.mark.parametrize("reason", families.REFUSED)
def test_what_does_anything_else_is_no_known_template(reason: str) -> None:
    assert detect(families.REFUSED[reason], bos_token="<s>", eos_token="</s>") is None


def test_another_end_of_sequence_is_another_template() -> None:
    assert detect(families.ZEPHYR, bos_token="<s>", eos_token="<|endoftext|>") is None


def test_a_bos_that_is_not_the_model_s_stays() -> None:
    assert detect("<s>" + families.CHATML, bos_token="<bos>") is None
    found = detect("<s>" + families.CHATML, bos_token="<s>")
    assert found is not None
    assert found.name == "chatml"


@pytest.mark.parametrize("name", STOPS)
def test_every_family_has_a_template_and_stops(name: str) -> None:
    assert known_template(name).vars() >= {"messages", "role", "content"}
    assert STOPS[name]
    assert parse(template_text(name)).source == template_text(name)


def test_a_name_is_no_path() -> None:
    with pytest.raises(KeyError):
        template_text("../library/chatml")
