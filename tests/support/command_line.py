"""`mistral-service` as a user types it, run in this process."""

from typer.testing import CliRunner

from mistral_service.cli.app import app

SECRET = "a-key-that-no-one-may-see"


def run(*arguments: str, said: str | None = None):
    """Run a command in this process; whatever it says is plain text, and never a traceback."""
    result = CliRunner().invoke(app, list(arguments), input=said, prog_name="mistral-service")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    assert SECRET not in result.output
    return result
