"""The markers that chat templates put between the parts of a conversation.

A server without a parser for its model's template, or whose parser fails, sends them as text.
`docs/dialects.md` lists each with the servers that send it.
"""

from dataclasses import dataclass
from typing import Literal

MAX_MARKUP = 65_536
"""Characters that one piece of markup may have; a call of a thousand words has six thousand."""

_MAX_SHOWN = 200

What = Literal["drop", "think", "think_end", "skip", "call", "fence"]


@dataclass(frozen=True, slots=True)
class Marker:
    """A marker and its meaning.

    Parameters:
        text: The marker.
        what: What follows. `drop`: nothing special. `think`: a thought. `think_end`: the end of a
            thought. `skip`: what is not part of the reply. `call`: function calls. `fence`: a code
            block, which may contain a call.
        ends: The markers that end a `think` or a `skip`.
    """

    text: str
    what: What
    ends: tuple[str, ...] = ()


# Reasoning models of other vendors have other spellings of the tag.
_THOUGHTS = ("think", "thinking", "thought", "reasoning")

_THINK_END = "[/THINK]"

THOUGHT_ENDS = (_THINK_END, *(f"</{name}>" for name in _THOUGHTS))
"""The closing tags of thoughts."""

CALLS = "[TOOL_CALLS]"
"""The special token before calls."""

_CALL_TAGS = ("tool_call", "tool_calls", "function_call")

CALL_MARKERS = (CALLS, *(f"<{tag}>" for tag in _CALL_TAGS))
"""The markers of calls; one also ends a thought that is never closed."""

# Turns of other roles, which a model generates that has missed its own end.
_OTHER_ROLES = ("user", "system", "tool")

_DROPPED = (
    # Mistral's own (`mistral_common.tokens.tokenizers.base.SpecialTokens`)
    *("<s>", "</s>", "<unk>", "<pad>", "[/INST]", "[/AVAILABLE_TOOLS]", "[/TOOL_RESULTS]"),
    *("[/SYSTEM_PROMPT]", "[/MODEL_SETTINGS]", "[TOOL_CONTENT]", "[ARGS]", "[CALL_ID]"),
    # not [IMG], [AUDIO], [PREFIX] and the like: no reply ends so, and text may contain them
    *("[/TOOL_CALLS]", "[IMG_BREAK]", "[IMG_END]"),
    *("[BEGIN_AUDIO]", "[STREAMING_PAD]", "[STREAMING_WORD]"),
    # ChatML, Llama 3, Gemma, Phi, DeepSeek, and others on the same servers
    *("<|im_start|>", "<|im_end|>", "<|im_sep|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>"),
    *("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>"),
    *("<|end|>", "<|assistant|>", "<|eos|>", "<|bos|>", "<|end_of_turn|>", "<|return|>"),
    *("<|start|>", "<|channel|>", "<|message|>", "<|call|>", "<|python_tag|>", "<|pad|>"),
    *("<|eot|>", "<|eom|>", "<|EOT|>", "<EOT>", "<|endofturn|>", "<|end_of_sentence|>"),
    *("<|end_of_utterance|>", "<|channel|>final<|message|>", "<|channel|>commentary<|message|>"),
    *("<start_of_turn>", "<end_of_turn>", "<bos>", "<eos>", "<|tool_call|>", "<|endofprompt|>"),
    *("<start_of_turn>model", "<|im_start|>assistant", "<<SYS>>", "<</SYS>>"),
    *("<|start_header_id|>assistant<|end_header_id|>", "<|start|>assistant"),
    "<|END_OF_TURN_TOKEN|>",
    *("<｜end▁of▁sentence｜>", "<｜begin▁of▁sentence｜>", "<｜Assistant｜>"),
    *(f"</{tag}>" for tag in _CALL_TAGS),
)

MARKERS: tuple[Marker, ...] = (
    *(Marker(text, "drop") for text in _DROPPED),
    Marker("[THINK]", "think", (_THINK_END,)),
    *(Marker(f"<{name}>", "think", THOUGHT_ENDS) for name in _THOUGHTS),
    Marker("<|channel|>analysis<|message|>", "think", ("<|end|>", "<|channel|>final<|message|>")),
    *(Marker(text, "think_end") for text in THOUGHT_ENDS),
    *(Marker(text, "call") for text in CALL_MARKERS),
    Marker("[AVAILABLE_TOOLS]", "skip", ("[/AVAILABLE_TOOLS]",)),
    Marker("[TOOL_RESULTS]", "skip", ("[/TOOL_RESULTS]",)),
    Marker("[SYSTEM_PROMPT]", "skip", ("[/SYSTEM_PROMPT]",)),
    Marker("[MODEL_SETTINGS]", "skip", ("[/MODEL_SETTINGS]",)),
    Marker("[INST]", "skip", ("[/INST]",)),
    *(Marker(f"<|im_start|>{role}", "skip", ("<|im_end|>",)) for role in _OTHER_ROLES),
    *(Marker(f"<|{role}|>", "skip", ("<|assistant|>",)) for role in _OTHER_ROLES),
    *(
        Marker(f"<|start_header_id|>{role}<|end_header_id|>", "skip", ("<|eot_id|>",))
        for role in _OTHER_ROLES
    ),
    Marker("<start_of_turn>user", "skip", ("<end_of_turn>",)),
)
"""Every marker that is known."""

FENCE = Marker("```", "fence")
"""A code block; small models put calls into one. A marker only where functions are offered."""

_BY_FIRST: dict[str, list[Marker]] = {}
for _marker in MARKERS:
    _BY_FIRST.setdefault(_marker.text[0], []).append(_marker)

FIRST = "".join(_BY_FIRST)
"""The first characters of all markers."""


def marker_at(text: str, *, fences: bool = False) -> tuple[Marker | None, bool]:
    """Find the marker at the beginning of a text that is not empty.

    Args:
        text: The text.
        fences: Whether `FENCE` is a marker.

    Returns:
        The longest marker that the text begins with, or None; and whether the text may still become
        a longer one.
    """
    if text[0] == "`" and fences:
        return (FENCE, False) if text.startswith("```") else (None, "```".startswith(text))
    found: Marker | None = None
    grows = False
    for marker in _BY_FIRST.get(text[0], ()):
        if text.startswith(marker.text):
            if found is None or len(marker.text) > len(found.text):
                found = marker
        elif marker.text.startswith(text):
            grows = True
    return found, grows


def could_begin(text: str) -> set[What]:
    """The kinds of markers of which a text that is not empty may be the beginning."""
    markers = _BY_FIRST.get(text[0], ())
    return {marker.what for marker in markers if marker.text.startswith(text)}


def beginning_of(ends: tuple[str, ...], text: str) -> int:
    """How many characters at the end of a text without these markers may begin one of them."""
    firsts = {end[0] for end in ends}
    longest = max(map(len, ends)) - 1
    for at in range(max(0, len(text) - longest), len(text)):
        if text[at] in firsts and any(end.startswith(text[at:]) for end in ends):
            return len(text) - at
    return 0


def shortened(markup: str) -> str:
    """The beginning of some markup, for an error or a log."""
    return markup if len(markup) <= _MAX_SHOWN else markup[: _MAX_SHOWN - 1] + "…"
