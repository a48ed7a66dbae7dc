"""What the documents show is what the code does."""

import ast
import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from call_servers import Line, Machines
from PIL import Image, ImageSequence

from mistral_service.conversation.rules import RULES, Conversion, apply_rules
from mistral_service.local import Checks, LocalMistral, Reply, Script
from mistral_service.wire.errors import _ADVICE, Reason

ROOT = Path(__file__).parents[2]
EXAMPLES = re.findall(
    r"^## (R\d+)\n.*?^Before( \(functions are offered\))?:\n\n```json\n(.*?)```\n\nAfter:\n\n"
    r"```json\n(.*?)```",
    (ROOT / "docs" / "rules.md").read_text(),
    re.DOTALL | re.MULTILINE,
)


@pytest.mark.parametrize(("rule", "offered", "before", "after"), EXAMPLES)
def test_an_example_of_a_rule_is_what_the_rule_does(rule, offered, before, after):
    conversion = Conversion(has_tools=bool(offered))
    sent = apply_rules(json.loads(before), conversion)
    assert sent == json.loads(after)
    assert rule in {change.rule for change in conversion.changes}
    assert Checks().validate({"model": "mistral-small-latest", "messages": sent}) is None


def test_every_rule_has_an_example():
    named = {number for rule in RULES for number in re.findall(r"R\d+", (rule.__doc__ or "")[:30])}
    assert named <= {rule for rule, *_ in EXAMPLES}
    assert {f"R{n}" for n in range(1, 17)} == {rule for rule, *_ in EXAMPLES}


def test_links_between_documents_lead_somewhere():
    for document in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        text = document.read_text()
        links = re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", text)
        for target in links + re.findall(r'\b(?:src|srcset)="([^":]+)"', text):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def loaded(moving: Image.Image) -> Iterator[Image.Image]:
    """Each image of an animation: how long it stays is known once it is loaded."""
    for each in ImageSequence.Iterator(moving):
        each.load()
        yield each


@pytest.mark.parametrize("name", ["README.md", "docs/demo.md"])
def test_the_film_moves_is_small_and_has_a_still_for_those_who_prefer_one(name: str):
    page = ROOT / name
    [picture] = re.findall(r"<picture>.*?</picture>", page.read_text(), re.DOTALL)
    [still] = re.findall(
        r'<source media="\(prefers-reduced-motion: reduce\)" srcset="(.+)">', picture
    )
    [(film, width, height, described)] = re.findall(
        r'<img src="(.+?)" width="(\d+)" height="(\d+)" alt="(.+?)">', picture
    )
    assert "resumed" in described
    assert f"]({still})" in page.read_text()
    size = (int(width), int(height))
    with Image.open(page.parent / film) as moving:
        assert moving.size == size
        assert moving.n_frames > 20
        seconds = sum(each.info["duration"] for each in loaded(moving)) / 1000
    assert 15 < seconds < 40
    with Image.open(page.parent / still) as standing:
        assert standing.size == size
        assert getattr(standing, "n_frames", 1) == 1
    assert (page.parent / film).stat().st_size < 1_500_000
    assert (page.parent / still).stat().st_size < 200_000


def test_the_guide_to_the_endpoints_runs(monkeypatch, capsys):
    guide = (ROOT / "docs" / "endpoints.md").read_text()
    [snippet] = re.findall(r"^```python\n(.*?)^```", guide, re.DOTALL | re.MULTILINE)
    replies = ["At your service."] * 2 + ['{"day": "Friday", "people": 4}', "3.14 * r * r"]
    with LocalMistral(Script(*map(Reply, replies))) as mistral:
        monkeypatch.setenv("MISTRAL_API_KEY", "any")
        monkeypatch.setenv("MISTRAL_BASE_URL", mistral.base_url)
        exec(compile(snippet, "endpoints.md", "exec"), {"__name__": "guide"})
    told = capsys.readouterr().out
    for words in ("At your service.", "day='Friday' people=4", "2 1024", "3.14 * r * r", "() 0.01"):
        assert words in told


def test_the_guide_to_portkey_makes_what_it_shows():
    guide = (ROOT / "docs" / "portkey.md").read_text()
    snippets = re.findall(r"^```python\n(.*?)^```", guide, re.DOTALL | re.MULTILINE)
    made: dict = {}
    for snippet in snippets:
        exec(compile(snippet.replace('"…"', '"any"'), "portkey.md", "exec"), made)
    assert made["headers"]["x-portkey-provider"] == "mistral-ai"
    assert "8787" in repr(made["client"])


async def test_the_client_of_the_guide_to_calls_stays_in_its_call():
    guide = (ROOT / "docs" / "calls.md").read_text()
    [snippet] = re.findall(r"^```python\n(.*?)^```", guide, re.DOTALL | re.MULTILINE)
    client: dict = {}
    exec(compile(snippet, "calls.md", "exec"), client)

    async def breaks(line: Line) -> int:
        assert await line.said("send-text") == {"content": "Why is the sky blue?"}
        await line.tell("bot-llm-started")
        await line.tell("bot-llm-text", text="Air scatters ")
        return 1012

    async def loses_its_power(line: Line) -> None:
        assert line.hello["asked"] == "Why is the sky blue?"
        await line.tell("bot-llm-text", text="blue ")
        line.freeze()
        await asyncio.Event().wait()

    async def goes_on(line: Line) -> None:
        await line.tell("bot-llm-text", text="most.")
        await line.tell("bot-llm-stopped")

    machines = Machines([breaks, loses_its_power, goes_on], away=1)
    with machines.running() as address:
        url = address.replace("http", "ws") + "call"
        answer = await asyncio.wait_for(client["ask"](url, "Why is the sky blue?"), 10)
        assert answer == "Air scatters blue most."
        machines.refusal = ("All lines are taken: call again in a moment.", 1013)
        with pytest.raises(RuntimeError, match="All lines are taken"):
            await client["ask"](url, "And?", patience=0.5)
    with pytest.raises(RuntimeError, match="the connection broke"):
        await client["ask"](url, "And?", patience=0.5)
    first, second, third = (line.hello for line in machines.lines)
    assert (first["id"], first["heard"], first["ended"]) == (None, None, False)
    assert first["asked"] is None
    assert (second["id"], second["heard"], second["ended"]) == ("c4ll", "Air scatters ", False)
    assert third["heard"] == "Air scatters blue "
    assert machines.lines[2].code == 1000


def strings_of(*folders: str) -> set[str]:
    """Every text in the code, and the constant parts of those that are put together."""
    found: set[str] = set()
    package = ROOT / "mistral_service"
    for path in [p for folder in folders for p in sorted(package.glob(folder))]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


def errors_page() -> str:
    return (ROOT / "docs" / "errors.md").read_text()


@pytest.mark.parametrize("reason", Reason)
def test_what_an_error_says_first_stands_on_the_page_of_errors(reason):
    assert f"| `{_ADVICE[reason]}` |" in errors_page()


def test_what_the_page_of_errors_quotes_is_what_the_code_says():
    code = "\n".join(strings_of("**/*.py"))
    tables = [line for line in errors_page().splitlines() if line.startswith("|")]
    quoted = re.findall(r"`([^`]+)`", "\n".join(line.split("|")[1] for line in tables))
    # Names of attributes are no sentences.
    sentences = [q for q in quoted if " " in q]
    assert len(sentences) > 60
    for sentence in sentences:
        for part in filter(lambda part: len(part) > 9, re.split(r"…|@", sentence)):
            assert part.strip(" .:,(") in code, sentence


def test_a_value_error_of_the_constructor_stands_on_the_page_of_errors():
    page = errors_page()
    for name in ("wire/access.py", "wire/servers.py", "wire/shared_clients.py"):
        tree = ast.parse((ROOT / "mistral_service" / name).read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                parts = [
                    part.value
                    for part in ast.walk(node.exc)
                    if isinstance(part, ast.Constant) and isinstance(part.value, str)
                ]
                assert max(parts, key=len).strip(" :)") in page, name


def test_what_the_glossary_names_is_in_the_code():
    names: set[str] = set()
    for path in sorted((ROOT / "mistral_service").glob("**/*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                names.add(node.name)
            elif isinstance(node, ast.AnnAssign | ast.arg):
                names.add(ast.unparse(node.target) if isinstance(node, ast.AnnAssign) else node.arg)
    rows = [line.split("|") for line in (ROOT / "docs" / "glossary.md").read_text().splitlines()]
    named = {name for row in rows if len(row) == 5 for name in re.findall(r"`([^`]+)`", row[3])}
    assert len(named) > 30
    assert named - names == set()


def test_a_warning_and_a_report_of_the_service_stand_on_the_page_of_errors():
    page, found = errors_page(), 0
    package = ROOT / "mistral_service"
    for path in [*package.glob("pipecat/*.py"), *package.glob("wire/*.py"), *package.glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            name = getattr(node.func, "attr", "") if isinstance(node, ast.Call) else ""
            if name not in ("warning", "push_error", "report", "_report_once") or not node.args:
                continue
            texts = [each for each in ast.walk(node.args[0]) if isinstance(each, ast.Constant)]
            longest = max((str(each.value) for each in texts), key=len, default="")
            said = longest.partition(". ")[0].strip(" :,.")
            if " " in said and len(said) > 12:
                found += 1
                assert said in page, path.name
    assert found > 8
