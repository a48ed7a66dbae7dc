"""The commands and their options."""

import asyncio
import json
import os
import sys
from collections.abc import Generator
from contextlib import aclosing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from mistral_service import __version__
from mistral_service.wire.access import DEFAULT_BASE_URL, redacted_url
from mistral_service.wire.client import error_of
from mistral_service.wire.models import DEFAULT_MODEL, Catalogue

try:
    import typer
    from rich.console import Console
    from rich.text import Text
except ImportError as e:
    raise ImportError(
        f"The command line needs a package that is missing ({e}): "
        "pip install 'pipecat-mistral-service[cli]'."
    ) from None

from mistral_service.cli import catalogue, checks, conform, doctor, lint
from mistral_service.cli.chat import Chat
from mistral_service.cli.endpoint import CommandError, Endpoint
from mistral_service.conformance.report import markdown as to_markdown
from mistral_service.conformance.run import Plan

_INTERRUPTED = 130  # the status that shells report after Ctrl-C

app = typer.Typer(
    help="Tools around pipecat-mistral-service, the Mistral LLM service for Pipecat.",
    epilog="The key is read from MISTRAL_API_KEY, and never shown.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

BaseURL = Annotated[
    str,
    typer.Option(envvar="MISTRAL_BASE_URL", help="The endpoint's address.", metavar="URL"),
]
ModelName = Annotated[str, typer.Option(envvar="MISTRAL_MODEL", help="The model.", metavar="NAME")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command("doctor")
def doctor_command(
    base_url: BaseURL = DEFAULT_BASE_URL,
    model: ModelName = DEFAULT_MODEL,
    tries: Annotated[int, typer.Option(min=0, max=100, help="Replies to time.")] = 5,
    as_json: AsJson = False,
) -> None:
    """Check whether a bot could speak: key, endpoint, TLS, clock, model, time to the first word.

    The exit status is 1 if it could not.
    """

    async def run() -> list[checks.Finding]:
        async with aclosing(checks.run_checks(Endpoint.given(base_url), model, tries)) as findings:
            if as_json:
                return [finding async for finding in findings]
            return await doctor.show(findings, Console())

    with _errors_reported():
        found = asyncio.run(run())
        if as_json:
            report = {
                "healthy": doctor.healthy(found),
                "base_url": redacted_url(base_url),
                "model": model,
                "findings": [finding.as_json() for finding in found],
            }
            _print_json(report)
        raise typer.Exit(0 if doctor.healthy(found) else 1)


@app.command("lint")
def lint_command(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="JSON: a list of messages, or a request with messages and tools; - reads "
            "standard input.",
            metavar="FILE.json…",
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Show what the message rules would change in a history, and why.

    The exit status is 1 if they would change something, 2 if a file is not a history.
    """
    console = Console()
    reports: list[dict[str, Any]] = []
    with _errors_reported(status=2):
        for path in files:
            name = "standard input" if path == Path("-") else str(path)
            text = sys.stdin.read() if path == Path("-") else lint.read_file(path)
            messages, tools = lint.read_history(text, name)
            report = lint.lint(messages, tools)
            reports.append({"file": name, **report.as_json()})
            if not as_json:
                lint.show(report, name, console)
        if as_json:
            _print_json(reports[0] if len(reports) == 1 else reports)
        raise typer.Exit(0 if all(report["clean"] for report in reports) else 1)


@app.command("chat")
def chat_command(
    words: Annotated[
        str | None,
        typer.Argument(help="A single message; print its answer and exit."),
    ] = None,
    base_url: BaseURL = DEFAULT_BASE_URL,
    model: ModelName = DEFAULT_MODEL,
    image: Annotated[
        Path | None, typer.Option(help="An image to attach to the first message.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="A system message.")] = None,
    tools: Annotated[bool, typer.Option(help="Offer a clock and a calculator.")] = True,
) -> None:
    """Chat with a model in the terminal: streamed, with functions and images.

    Ctrl-C interrupts an answer, Ctrl-D ends the conversation, `/image FILE` attaches an image to
    the next message.
    """
    console = Console(highlight=False)
    with _errors_reported(), asyncio.Runner() as runner:
        endpoint = Endpoint.given(base_url)
        client = endpoint.client()
        chat = Chat(client, model, console, system=system, with_tools=tools)
        try:
            if image is not None:
                chat.show_image(image)
            if words is not None:
                runner.run(chat.say(words))
                return
            if sys.stdin.isatty():
                console.print(
                    Text(f"{model} at {redacted_url(endpoint.base_url)}; Ctrl-D ends.", "dim")
                )
            _converse(chat, console, runner)
        finally:
            runner.run(client.close())


def _converse(chat: Chat, console: Console, runner: asyncio.Runner) -> None:
    """Answer the user's messages until the input ends."""
    while True:
        try:
            words = console.input("[bold cyan]you ›[/] " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return
        # A fault in one answer is reported, and the conversation goes on.
        with _errors_reported(status=None):
            if words.startswith("/image "):
                chat.show_image(Path(words.removeprefix("/image ").strip()).expanduser())
                console.print(Text("It goes out with your next message.", "dim"))
            elif words:
                runner.run(chat.say(words))


@app.command("models")
def models_command(base_url: BaseURL = DEFAULT_BASE_URL, as_json: AsJson = False) -> None:
    """List the models that the key may use, and their capabilities."""

    async def fetch() -> Catalogue:
        async with Endpoint.given(base_url).client() as client:
            return await client.models()

    with _errors_reported():
        found = asyncio.run(fetch())
        if as_json:
            _print_json([asdict(card) for card in found.cards])
        elif found.cards:
            catalogue.show(found, Console())
        else:
            raise CommandError(f"{redacted_url(base_url)} lists no models.")


@app.command("conform")
def conform_command(
    base_url: BaseURL = DEFAULT_BASE_URL,
    model: ModelName = DEFAULT_MODEL,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before sending.")] = False,
    budget: Annotated[
        float, typer.Option(min=0, help="The most to spend, in dollars.", metavar="DOLLARS")
    ] = conform.DEFAULT_BUDGET,
    requests: Annotated[
        int, typer.Option(min=1, max=10_000, help="The most requests to send.", metavar="N")
    ] = conform.MOST_REQUESTS,
    report: Annotated[
        Path | None,
        typer.Option(
            help="The report's file (default: conform-SERVER-DATE.json).",
            metavar="FILE",
        ),
    ] = None,
    captures: Annotated[
        Path | None, typer.Option(help="Save the streams in this folder.", metavar="DIR")
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the report as Markdown, for an issue.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Test what this package assumes of Mistral's API against an endpoint, for a few cents.

    The exit status is 0 if all is as assumed, 1 if something differs, 2 if it could not run.
    """
    console = Console()
    with _errors_reported(status=2):
        endpoint = Endpoint.given(base_url)
        plan = Plan.of(model)
        conform.check_outputs(report, captures)
        if not yes:
            conform.confirm(conform.plan_sentence(plan, endpoint, budget), Console(stderr=True))
        found, stopped = asyncio.run(
            conform.run_probes(
                endpoint,
                model,
                plan,
                budget=budget,
                most_requests=requests,
                captures=captures,
                shown=None if as_json or markdown else lambda row: conform.show(row, console),
            )
        )
        file = report or Path(f"conform-{found.server}-{found.date}.json")
        text = json.dumps(found.as_json(), ensure_ascii=False, indent=1)
        conform.write(file, f"{text}\n")
        if as_json:
            typer.echo(text)
        elif markdown:
            typer.echo(to_markdown(found), nl=False)
        else:
            conform.show_end(found, file, stopped, console)
        raise typer.Exit(conform.status_of(found, stopped))


# The options are those of the programs themselves, `--help` included.
_PASSED_ON = {"ignore_unknown_options": True, "allow_extra_args": True}


@app.command("serve", context_settings=_PASSED_ON, add_help_option=False)
def serve_command(context: typer.Context) -> None:
    """Run the strict local endpoint (as python -m mistral_service.local does)."""
    with _errors_reported():
        try:
            from mistral_service.local.__main__ import main

            status = main(context.args, program="mistral-service serve")
        except ImportError as e:
            raise CommandError(
                f"A package is missing ({e}): pip install 'pipecat-mistral-service[local]'."
            ) from None
        raise typer.Exit(status)


@app.command("demo", context_settings=_PASSED_ON, add_help_option=False)
def demo_command(context: typer.Context) -> None:
    """Speak with a bot in the browser (as python -m mistral_service.demo does)."""
    from mistral_service.demo.__main__ import main

    with _errors_reported():
        raise typer.Exit(main(context.args, program="mistral-service demo"))


@contextmanager
def _errors_reported(status: int | None = 1) -> Generator[None]:
    """Report an exception in one sentence; exit with `status`, or go on if it is None."""
    try:
        yield
    except (typer.Exit, typer.Abort):
        raise
    except KeyboardInterrupt:
        Console(stderr=True).print(Text("(interrupted)", "dim"))
        if status is not None:
            raise typer.Exit(_INTERRUPTED) from None
    except Exception as e:
        if os.environ.get("MISTRAL_SERVICE_TRACEBACK"):
            raise
        Console(stderr=True).print(Text(_sentence(e), "red"), soft_wrap=True)
        if status is not None:
            raise typer.Exit(status) from None


def _sentence(exception: Exception) -> str:
    if isinstance(exception, CommandError):
        return str(exception)
    if error := error_of(exception, os.environ.get("MISTRAL_API_KEY", "").strip()):
        return str(error)
    return (
        f"A fault of mistral-service itself, {type(exception).__name__}: {exception} "
        "(MISTRAL_SERVICE_TRACEBACK=1 shows where; please report it)"
    )


def _print_json(data: object) -> None:
    typer.echo(json.dumps(data, ensure_ascii=False, indent=2))
