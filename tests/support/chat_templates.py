"""The judges besides the strict endpoint's own: chat templates, rendered with jinja2."""

import functools
from typing import Any

import jinja2
from mistral_common.integrations.chat_templates.template_generator import (
    TemplateConfig,
    build_chat_template,
)
from mistral_common.tokens.tokenizers.base import TokenizerVersion

# What the templates published with self-hosted models share, in our words: one system message,
# turns that alternate with calls and results aside, ids of nine characters.
CLASSIC = """\
{%- if messages[0]['role'] == 'system' -%}
  [SYS]{{ messages[0]['content'] }}[/SYS]{%- set rest = messages[1:] -%}
{%- else -%}{%- set rest = messages -%}{%- endif -%}
{%- set seen = namespace(turns=0) -%}
{%- for m in rest -%}
  {%- if m['role'] == 'user' or (m['role'] == 'assistant' and not m.get('tool_calls')) -%}
    {%- if (m['role'] == 'user') != (seen.turns % 2 == 0) -%}
      {{ raise_exception('conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif -%}
    {%- set seen.turns = seen.turns + 1 -%}
  {%- endif -%}
  {%- if m['role'] not in ('user', 'assistant', 'tool') -%}
    {{ raise_exception('Only user, assistant and tool roles are supported') }}
  {%- endif -%}
  {%- for call in m.get('tool_calls') or [] -%}
    {%- if call['id'] | length != 9 -%}{{ raise_exception('ids must have length 9') }}{%- endif -%}
  {%- endfor -%}
  {%- if m['role'] == 'tool' and m['tool_call_id'] | length != 9 -%}
    {{ raise_exception('ids must have length 9') }}
  {%- endif -%}
  [{{ m['role'] }}]
{%- endfor -%}
"""


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


@functools.cache
def templates() -> dict[str, jinja2.Template]:
    """The classic template, and the one that mistral-common makes for each tokenizer version."""
    environment = jinja2.Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols"],
    )
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda _form: "2026-11-21"
    made = {"classic": environment.from_string(CLASSIC)}
    for version in ("v3", "v7", "v11", "v13", "v15"):
        effort = ("none", "high") if version == "v15" else None
        config = TemplateConfig(
            version=TokenizerVersion(version),
            spm=version in ("v3",),
            image_support=version != "v3",
            audio_support=False,
            thinking_support=version in ("v13", "v15"),
            plain_thinking_support=False,
            use_special_token_variables=True,
            model_settings_fields=None,
            reasoning_effort_values=effort,
            reasoning_effort_default="none" if effort else None,
        )
        made[version] = environment.from_string(build_chat_template(config))
    return made


def _has_parts_beyond(messages: list[dict[str, Any]], allowed: set[str]) -> bool:
    return any(
        part["type"] not in allowed
        for message in messages
        if isinstance(message.get("content"), list)
        for part in message["content"]
    )


def render(name: str, messages: list[dict[str, Any]]) -> str | None:
    """Render a history with a template.

    Returns:
        What the template says against it; None if it renders. Parts that a template has no form
        for (images in a model without eyes) are not held against the history.
    """
    allowed = {"text"} if name in ("v3", "classic") else {"text", "image_url"}
    if _has_parts_beyond(messages, allowed):
        return None
    # Templates go with servers that put a missing content in themselves.
    given = [{"content": "", **message} for message in messages]
    try:
        templates()[name].render(messages=given, bos_token="<s>", eos_token="</s>", tools=None)
    except jinja2.TemplateError as e:
        return str(e)
    return None
