"""The words of a reply that a crash has cut, until the context has them."""

from typing import Any, cast

from pipecat.processors.aggregators.llm_context import LLMContext, LLMSpecificMessage


class PendingContext:
    """The words of a cut reply that the context lacks: Pipecat adds only their continuation."""

    def __init__(self, context: LLMContext, before: Any, cut: str) -> None:
        """Remember the words.

        Args:
            context: The context that lacks them.
            before: The message before them; None if there is none.
            cut: The words.
        """
        self._context = context
        self._before = before
        self._cut = cut
        self._joint: str | None = None

    def on_continuation(self, words: str) -> None:
        """Note whether the continuation begins with a space: the context strips it."""
        if self._joint is None and words:
            self._joint = " " if words[0].isspace() and not self._cut[-1].isspace() else ""

    def merge(self, *, final: bool) -> bool:
        """Put the words before their continuation.

        Args:
            final: Whether no continuation is to come: then the words become a message of their own.

        Returns:
            Whether the context has the words.
        """
        messages = list(self._context.get_messages())
        found = [i for i, message in enumerate(messages) if message is self._before]
        if not found:
            return True  # The bot has replaced the context.
        at = found[-1] + 1
        rest = messages[at] if at < len(messages) else None
        if rest is not None and not isinstance(rest, LLMSpecificMessage):
            message = cast("dict[str, Any]", rest)
            words = message.get("content")
            if message.get("role") == "assistant" and isinstance(words, str) and words:
                whole = self._cut + (self._joint or "") + words.lstrip()
                messages[at] = cast(Any, {**message, "content": whole})
                self._context.set_messages(messages)
                return True
        if final:
            messages.insert(at, cast(Any, {"role": "assistant", "content": self._cut.strip()}))
            self._context.set_messages(messages)
        return final
