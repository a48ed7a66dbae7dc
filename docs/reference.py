"""Writes docs/settings.md from the code: `make docs`. A test holds that it is up to date."""

import inspect
import re
import sys
from dataclasses import fields
from pathlib import Path

from pipecat.services.openai.base_llm import OpenAILLMSettings

from mistral_service.setting_bounds import ALLOWED
from mistral_service.settings import MistralLLMSettings

PAGE = Path(__file__).parent / "settings.md"
HEAD = """\
# Settings

<!-- Written by docs/reference.py from mistral_service/settings.py: change it there. -->

The fields of `MistralLLMService.Settings(…)`. A value that is not allowed is refused with a
sentence that names the setting, the allowed values, and the given one: when the service is made, or
when an update comes, which is then refused as a whole. Every setting can change during a
conversation:

```python
await worker.queue_frame(LLMUpdateSettingsFrame(delta=MistralLLMService.Settings(temperature=0.2)))
```
"""


def render() -> str:
    """The page, from the settings' docstring and their bounds."""
    inherited = {f.name for f in fields(OpenAILLMSettings)}
    own = [f.name for f in fields(MistralLLMSettings) if f.name not in inherited]
    said = _parameters()
    rows = ["", "## Mistral's and this package's", "", "| setting | | allowed |", "|---|---|---|"]
    rows += [f"| `{name}` | {said[name]} | {_allowed(name)} |" for name in own]
    rows += ["", "## Pipecat's", "", "| setting | allowed |", "|---|---|"]
    rows += [
        f"| `{f.name}` | {_allowed(f.name)} |"
        for f in fields(OpenAILLMSettings)
        if f.name in ALLOWED
    ]
    rows += ["", "`extra` holds further fields of the request's body, under Mistral's names."]
    return HEAD + "\n".join(rows) + "\n"


def _parameters() -> dict[str, str]:
    """What the docstring says of each parameter."""
    # Python 3.13 takes the indentation away when it compiles; `getdoc` does so everywhere.
    text = (inspect.getdoc(MistralLLMSettings) or "").partition("Parameters:\n")[2]
    found = re.findall(r"^    (\w+): (.*?)(?=^    \w+: |\Z)", text, re.DOTALL | re.MULTILINE)
    return {name: _cell(said) for name, said in found}


def _allowed(name: str) -> str:
    return _cell(ALLOWED[name][1]) if name in ALLOWED else ""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(f"{PAGE}\n")
    PAGE.write_text(render(), encoding="utf-8")
