"""An exception in the log: its stack and its message, and no values of variables.

Loguru's default sink prints the values of all variables in a traceback (`diagnose=True`), and with
them keys. So no exception is handed to a sink: its traceback is formatted here, as plain text.
"""

import traceback

from loguru import logger

_MAX_CHARS = 20_000
"""Characters of a traceback that are logged; the innermost frames and the message are kept."""


def log_exception(message: str, error: BaseException, *, level: str = "ERROR") -> None:
    """Log an exception with its stack, without the values of variables.

    Args:
        message: What has happened; it stands before the traceback.
        error: The exception; its causes and the members of a group are logged with it.
        level: Loguru's name of the level.
    """
    logger.opt(depth=1).log(level, "{}", f"{message}\n{traceback_of(error)}")


def traceback_of(error: BaseException) -> str:
    """What Python prints of an exception by default, 20,000 characters of it at most.

    Control characters other than line breaks and tabs are escaped, so that a message cannot move
    the cursor of a terminal.
    """
    found = traceback.TracebackException.from_exception(error, capture_locals=False, compact=True)
    text = "".join(found.format()).rstrip("\n")
    if len(text) > _MAX_CHARS:
        text = f"… {text[-_MAX_CHARS:]}"
    return "".join(
        each if each in "\n\t" or each.isprintable() else ascii(each)[1:-1] for each in text
    )
