"""The front page of the site, and the order of the pages.

The front page is the README, and the changelog is a page, so that each is written once. A link to a
file outside of the documentation becomes a link to the repository. A page that is missing from the
order below is an error, as a broken link is.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent

ORDER: dict[str, dict[str, str]] = {
    "Begin": {
        "Overview": "index.md",
        "Start": "start.md",
        "The demo": "demo.md",
        "From Pipecat's own service": "migration.md",
        "Settings": "settings.md",
    },
    "Build": {
        "Functions": "functions.md",
        "Vision": "vision.md",
        "Errors": "errors.md",
        "Latency": "latency.md",
        "Telephony": "telephony.md",
        "Two providers in one call": "switching.md",
        "Mistral without a pipeline": "endpoints.md",
        "Haystack": "haystack.md",
    },
    "Servers": {
        "Self-hosted models": "self-hosted.md",
        "Servers that differ": "servers.md",
        "Portkey": "portkey.md",
    },
    "Deploy": {
        "One process": "deployment.md",
        "Many machines": "scale.md",
        "Calls that move": "calls.md",
        "Observability": "observability.md",
        "Testing a bot": "testing.md",
        "Command line": "cli.md",
    },
    "Reference": {
        "The message rules": "rules.md",
        "Odd replies": "odd-replies.md",
        "Markup as text": "dialects.md",
        "Faults": "faults.md",
        "Benchmarks": "benchmarks.md",
        "Soak test": "soak.md",
        "Glossary": "glossary.md",
    },
    "Inside": {
        "Architecture": "architecture.md",
        "Licences": "licences.md",
        "Releasing": "releasing.md",
        "What changed": "changelog.md",
    },
}
"""The pages by section, in the order of a user's questions."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, and order all of them."""
    readme = (ROOT / "README.md").read_text().replace("](docs/", "](").replace('"docs/', '"')
    readme = readme.replace("](CHANGELOG.md)", "](changelog.md)")
    better = readme.partition("## Compared with")[2].partition("\n## ")[0]
    chart = "![Compared with Pipecat's own service](images/benchmarks.svg)\n"
    made = {
        "index.md": readme,
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(),
        "benchmarks.md": f"# Benchmarks\n\n{chart}\n{better.partition(chr(10))[2]}",
    }
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))

    written = {file.src_uri for file in files.documentation_pages()}
    placed = {name for pages in ORDER.values() for name in pages.values()}
    if lost := sorted(written - placed):
        raise PluginError(f"{', '.join(lost)}: give it a place in ORDER, in docs/pages.py")
    nav: list[dict[str, Any]] = []
    for section, pages in ORDER.items():
        there = [{title: name} for title, name in pages.items() if name in written]
        if there:
            nav.append({section: there})
    config.nav = nav
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite links out of the documentation as links to the repository."""
    repository = f"{config.repo_url}/blob/main/"

    def rewrite(match: re.Match[str]) -> str:
        target = match[1].removeprefix("../")
        inside = files.get_file_from_path(match[1]) is not None
        if inside or not (ROOT / target.partition("#")[0]).exists():
            return match[0]  # mkdocs reports a broken link
        return f"]({repository}{target})"

    return re.sub(r"\]\(((?:\.\./)?[\w./-]+(?:#[\w-]+)?)\)", rewrite, markdown)
