"""Writes the list of modules into docs/architecture.md: `make docs`. A test holds it up to date."""

import ast
from pathlib import Path

PAGE = Path(__file__).parent / "architecture.md"
PACKAGE = Path(__file__).parent.parent / "mistral_service"
BEGIN, END = "<!-- modules: written by docs/modules.py -->\n", "<!-- end of modules -->\n"
FOLDERS = (
    "pipecat",
    "pipecat/functions",
    "turn",
    "reply",
    "conversation",
    "wire",
    "client",
    "local",
    "conformance",
    "cli",
    "scale",
    "demo",
)
"""The folders, from the pipeline down to the wire, then those around."""


def render() -> str:
    """The list: each module by the first line of its docstring."""
    lines: list[str] = []
    for folder in FOLDERS:
        lines += ["", f"### `{folder}/`", "", "| module | |", "|---|---|"]
        for path in sorted((PACKAGE / folder).glob("*.py")):
            if path.name != "__init__.py":
                lines.append(f"| `{path.name}` | {_first_line(path)} |")
    return "\n".join(lines).lstrip("\n") + "\n"


def page() -> str:
    """The page with the list as it is now."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    return before + BEGIN + "\n" + render() + "\n" + END + rest.partition(END)[2]


def _first_line(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    return docstring.partition("\n")[0].replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page())
    print(PAGE)
