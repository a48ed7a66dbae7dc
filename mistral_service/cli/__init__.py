"""The command line: `mistral-service doctor`, `lint`, `chat`, `models`, `conform`, and others."""

import sys


def main() -> int:
    """Run the command line.

    Returns:
        The exit status: 0 for success, 1 for a fault, 2 for a wrong command line.
    """
    try:
        from mistral_service.cli.app import app
    except ImportError as e:
        print(e, file=sys.stderr)
        return 1
    app(prog_name="mistral-service")
    return 0
