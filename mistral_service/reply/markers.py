"""The markers that chat templates put between the parts of a conversation.

A server without a parser for its model's template, or whose parser gives up, sends them as text.
`docs/dialects.md` shows each with the servers that send it.
"""

from dataclasses import dataclass
from typing import Literal

MAX_MARKUP = 65_536
"""Characters that one piece of markup may have; a call of a thousand words has six thousand."""

_SHOWN = 200

What = Literal["drop", "think", "think_end", "skip", "call", "fence"]


@dataclass(frozen=True, slots=True)
class Marker:
    """A marker and what follows it.

    Parameters:
        text: The marker.
        what: `drop`: nothing. `think`: a thought. `think_end`: the end of a thought. `skip`: what
            is no part of the reply. `call`: calls of functions. `fence`: a block of code, which may
            be a call.
        ends: What ends a `think` or a `skip`.
    """

    text: str
    what: What
    ends: tuple[str, ...] = ()


# Thinking models of other makers spell the tag in their own ways.
_THOUGHTS = ("think", "thinking", "thought", "reasoning")

_THINK_END = "[/THINK]"

THOUGHT_ENDS = (_THINK_END, *(f"</{name}>" for name in _THOUGHTS))
"""What ends a thought of which it is not known that another marker ends it."""

CALLS = "[TOOL_CALLS]"
"""The special token before calls."""

_CALL_TAGS = ("tool_call", "tool_calls", "function_call")

CALL_MARKERS = (CALLS, *(f"<{tag}>" for tag in _CALL_TAGS))
"""What stands before calls; it also ends a thought that is never closed."""

# A turn of somebody else, which a model that missed its own end goes on to invent.
_OTHERS = ("user", "system", "tool")

_DROPPED = (
    # Mistral's own (`mistral_common.tokens.tokenizers.base.SpecialTokens`)
    *("<s>", "</s>", "<unk>", "<pad>", "[/INST]", "[/AVAILABLE_TOOLS]", "[/TOOL_RESULTS]"),
    *("[/SYSTEM_PROMPT]", "[/MODEL_SETTINGS]", "[TOOL_CONTENT]", "[ARGS]", "[CALL_ID]"),
    # but for [IMG], [AUDIO], [PREFIX] and their like: no reply ends so, and words may hold them
    *("[/TOOL_CALLS]", "[IMG_BREAK]", "[IMG_END]"),
    *("[BEGIN_AUDIO]", "[STREAMING_PAD]", "[STREAMING_WORD]"),
    # ChatML, Llama 3, Gemma, Phi, DeepSeek, and others that run on the same servers
    *("<|im_start|>", "<|im_end|>", "<|im_sep|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>"),
    *("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>"),
    *("<|end|>", "<|assistant|>", "<|eos|>", "<|bos|>", "<|end_of_turn|>", "<|return|>"),
    *("<|start|>", "<|channel|>", "<|message|>", "<|call|>", "<|python_tag|>", "<|pad|>"),
    *("<|eot|>", "<|eom|>", "<|EOT|>", "<EOT>", "<|endofturn|>", "<|end_of_sentence|>"),
    *("<|end_of_utterance|>", "<|channel|>final<|message|>", "<|channel|>commentary<|message|>"),
    *("<start_of_turn>", "<end_of_turn>", "<bos>", "<eos>", "<|tool_call|>", "<|endofprompt|>"),
    *("<start_of_turn>model", "<|im_start|>assistant", "<<SYS>>", "<</SYS>>"),
    *("<|start_header_id|>assistant<|end_header_id|>", "<|start|>assistant"),
    *(
        "<｜end▁of▁sentence｜>",
        "<｜begin▁of▁sentence｜>",
        "<｜Assistant｜>",
        "<|END_OF_TURN_TOKEN|>",
    ),
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
    *(Marker(f"<|im_start|>{role}", "skip", ("<|im_end|>",)) for role in _OTHERS),
    *(Marker(f"<|{role}|>", "skip", ("<|assistant|>",)) for role in _OTHERS),
    *(
        Marker(f"<|start_header_id|>{role}<|end_header_id|>", "skip", ("<|eot_id|>",))
        for role in _OTHERS
    ),
    Marker("<start_of_turn>user", "skip", ("<end_of_turn>",)),
)
"""Every marker that is known."""

FENCE = Marker("```", "fence")
"""A block of code; small models put calls into one. A marker only where functions are offered."""

_BY_FIRST: dict[str, list[Marker]] = {}
for _marker in MARKERS:
    _BY_FIRST.setdefault(_marker.text[0], []).append(_marker)

FIRST = "".join(_BY_FIRST)
"""The characters that a marker begins with."""


def marker_at(text: str, *, fences: bool = False) -> tuple[Marker | None, bool]:
    """Look for a marker at the beginning of a text.

    Args:
        text: The text; not empty.
        fences: Whether `FENCE` is a marker.

    Returns:
        The longest marker that the text begins with, or None; and whether the text, as far as it
        has come, may still become a longer one.
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
    """What kinds of markers a text may be the beginning of.

    Args:
        text: The text; not empty.
    """
    markers = _BY_FIRST.get(text[0], ())
    return {marker.what for marker in markers if marker.text.startswith(text)}


def beginning_of(ends: tuple[str, ...], text: str) -> int:
    """How many characters at the end of a text may be the beginning of one of some markers.

    Args:
        ends: The markers.
        text: The text, in which none of them stands whole.
    """
    firsts = {end[0] for end in ends}
    longest = max(map(len, ends)) - 1
    for at in range(max(0, len(text) - longest), len(text)):
        if text[at] in firsts and any(end.startswith(text[at:]) for end in ends):
            return len(text) - at
    return 0


def shown(markup: str) -> str:
    """The beginning of some markup, for an error or a log."""
    return markup if len(markup) <= _SHOWN else markup[: _SHOWN - 1] + "…"
