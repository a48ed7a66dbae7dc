"""Texts without the secrets of the environment, which libraries quote in their errors."""

import os
import re

_SECRET = re.compile("KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)
_SHORTEST_SECRET = 6


def without_secrets(text: str) -> str:
    """A text in which the value of a variable that may be a secret is replaced by its name."""
    for name, value in os.environ.items():
        if _SECRET.search(name) and len(value) >= _SHORTEST_SECRET:
            text = text.replace(value, f"${name}")
    return text
