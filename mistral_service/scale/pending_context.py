"""The words of a reply that was cut by a crash, and that the context still lacks."""

from typing import Any, cast

from pipecat.processors.aggregators.llm_context import LLMContext, LLMSpecificMessage


class PendingContext:
    """The words of a cut reply that the context still lacks: its rest will come into it alone."""

    def __init__(self, context: LLMContext, before: Any, cut: str) -> None:
        """Remember what is owed.

        Args:
            context: Where it belongs.
            before: The message after which it belongs; None if there is none.
            cut: The words.
        """
        self._context = context
        self._before = before
        self._cut = cut
        self._glue: str | None = None

    def goes_on(self, words: str) -> None:
        """Take note of the words that go on from there: whether a space joins them."""
        if self._glue is None and words:
            # The context strips a reply of the space that it begins with.
            self._glue = " " if words[0].isspace() and not self._cut[-1].isspace() else ""

    def pay(self, *, finally_: bool) -> bool:
        """Put the words before those that came after them.

        Args:
            finally_: Whether nothing more is to come: then they stand alone, if they must.

        Returns:
            Whether there is nothing left to do.
        """
        messages = list(self._context.get_messages())
        places = [i for i, message in enumerate(messages) if message is self._before]
        if not places:
            return True  # Somebody has made the context anew.
        place = places[-1] + 1
        rest = messages[place] if place < len(messages) else None
        if rest is not None and not isinstance(rest, LLMSpecificMessage):
            message = cast("dict[str, Any]", rest)
            words = message.get("content")
            if message.get("role") == "assistant" and isinstance(words, str) and words:
                whole = self._cut + (self._glue or "") + words.lstrip()
                messages[place] = cast(Any, {**message, "content": whole})
                self._context.set_messages(messages)
                return True
        if finally_:
            messages.insert(place, cast(Any, {"role": "assistant", "content": self._cut.strip()}))
            self._context.set_messages(messages)
        return finally_
