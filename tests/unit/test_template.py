"""Chat templates render as transformers renders them, and hostile ones do no harm."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from lmx.catalog.chat_template import find_template
from lmx.engines.mlx.tokenizer import load_tokenizer
from lmx.engines.template import CHATML, PLAIN, ChatTemplate
from lmx.errors import CorruptModel, InvalidRequest
from lmx.protocol.messages import ChatPrompt
from tests.tiny_models import TEMPLATE, build_tiny_tokenizer

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "<Hi> & 世界"}]


def render(source: str, messages: list[dict[str, Any]] = CHAT, **variables: Any) -> str:
    """Compile and render in one go."""
    return ChatTemplate(source, variables).render(ChatPrompt(messages))


def test_a_chat_ends_at_the_assistants_turn() -> None:
    """Every message in order, nothing escaped, and the assistant's header last."""
    expected = (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n<Hi> & 世界<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert expected == render(TEMPLATE)
    assert expected == render(CHATML)


def test_special_tokens_are_variables() -> None:
    """Templates refer to the special tokens by name."""
    variables = {"bos_token": "<s>", "eos_token": "</s>"}
    template = ChatTemplate("{{ bos_token }}|{{ eos_token }}", variables)
    assert "<s>|</s>" == template.render(ChatPrompt(CHAT))


def test_blocks_leave_no_white_space() -> None:
    """`trim_blocks` and `lstrip_blocks` are on, so indented templates render tightly."""
    assert "xx" == render(
        "{% for m in messages %}\n    {% if true %}\nx\n    {% endif %}\n{% endfor %}"
    ).replace("\n", "")
    assert "a" == render("  {% if true %}\na{% endif %}")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ {'a': '<é>'} | tojson }}", '{"a": "<é>"}'),
        ("{{ {'b': 1, 'a': 2} | tojson(indent=2) }}", '{\n  "b": 1,\n  "a": 2\n}'),
        ("{% for m in messages %}{% if loop.index0 %}{% break %}{% endif %}x{% endfor %}", "x"),
        ("{% generation %}text{% endgeneration %}", "text"),
        ("{{ 'tools' if tools else 'none' }}", "none"),
        ("{% set ns = namespace(n=0) %}{% set ns.n = 3 %}{{ ns.n }}", "3"),
    ],
)
def test_what_templates_rely_on(source: str, expected: str) -> None:
    """Filters, tags and variables that published templates use behave as in transformers."""
    assert expected == render(source)


def test_tools_and_further_variables_reach_the_template() -> None:
    """Tools and the request's own variables are the template's; the conversation stays ours."""
    prompt = ChatPrompt(CHAT, [{"name": "f"}], {"enable_thinking": False, "messages": []})
    template = ChatTemplate(
        "{{ tools[0].name }} {{ enable_thinking }} {{ messages | length }}", {"enable_thinking": 1}
    )
    assert "f False 2" == template.render(prompt)


def test_strftime_now_tells_the_date() -> None:
    """Templates may ask for today's date."""
    assert str(datetime.now().astimezone().year) == render("{{ strftime_now('%Y') }}")


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('roles must alternate') }}",
        "{{ messages[9].content.strip() }}",
        "{{ messages[0]['content'] + 1 }}",
        "{{ 1 // 0 }}",
        "{{ {}.popitem() }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_a_template_that_fails_is_the_conversations_fault(source: str) -> None:
    """Whatever goes wrong in a template, sandbox escapes included, is a refused request."""
    with pytest.raises(InvalidRequest) as caught:
        render(source)
    assert "messages" == caught.value.param


def test_the_templates_own_words_reach_the_client() -> None:
    """`raise_exception` explains to the client what the template wants."""
    with pytest.raises(InvalidRequest, match="there is no role robot"):
        render(TEMPLATE, [{"role": "robot", "content": "beep"}])


def test_a_template_that_cannot_be_compiled_is_a_corrupt_model() -> None:
    """Syntax errors are found at load, not at the first request."""
    with pytest.raises(CorruptModel, match="chat template"):
        ChatTemplate("{% for %}", {})


def test_where_a_template_is_found(tmp_path: Path) -> None:
    """Its own file wins, then the configuration's string, then `default` of a named list."""
    named = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    assert find_template(tmp_path, {}) is None
    assert "S" == find_template(tmp_path, {"chat_template": "S"})
    assert "D" == find_template(tmp_path, {"chat_template": named})
    assert "T" == find_template(tmp_path, {"chat_template": named[:1]})
    (tmp_path / "chat_template.jinja").write_text("F", encoding="utf-8")
    assert "F" == find_template(tmp_path, {"chat_template": "S"})


def test_a_model_without_a_template_gets_a_plain_one_and_a_note(tmp_path: Path) -> None:
    """Base models get `role: content` lines, or ChatML if their vocabulary has its markers."""
    tokenizer = build_tiny_tokenizer()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    loaded, notes = load_tokenizer(tmp_path, {})
    assert render(CHATML) == loaded.render(ChatPrompt(CHAT))
    assert "ChatML" in notes[0]
    text = json.dumps(json.loads(tokenizer.to_str()) | {"added_tokens": []})
    (tmp_path / "tokenizer.json").write_text(text, encoding="utf-8")
    loaded, notes = load_tokenizer(tmp_path, {"bos_token": "<s>", "add_bos_token": True})
    assert "<s>system: Be brief.\nuser: <Hi> & 世界\nassistant:" == loaded.render(ChatPrompt(CHAT))
    assert "role: content" in notes[0]
    assert render(PLAIN).startswith("system")
