"""Which models begin their replies within a thought."""

import re

# The opening tag is part of their templates, and so not of the reply.
_BEGIN_IN_THOUGHT = re.compile(r"deepseek-?r1|qwq|thinking", re.IGNORECASE)

_MAX = 1000


class Templates:
    """Stores how the last replies began, by the endpoint's address and the model's name."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], bool] = {}

    def begins_in_thought(self, model: tuple[str, str]) -> bool:
        """Whether the next reply probably begins within a thought without an opening tag."""
        return self._known.get(model, bool(_BEGIN_IN_THOUGHT.search(model[1])))

    def learn(self, model: tuple[str, str], begins_in_thought: bool | None) -> None:
        """Record how a reply began; None if it is not known."""
        if begins_in_thought is not None and len(self._known) < _MAX:
            self._known[model] = begins_in_thought


TEMPLATES = Templates()
"""What this process has learned about the models."""
