"""A traceback in the log has the stack and the message, and no value of a variable."""

import ast
from pathlib import Path

from loguru import logger

import mistral_service
from mistral_service.pipecat.tracebacks import log_exception

KEY = "sk-held-by-the-bot-0123456789"


def logged_of(raises) -> str:
    """What a sink as talkative as loguru's default writes of an exception."""
    lines: list[str] = []
    sink = logger.add(lambda line: lines.append(str(line)), backtrace=True, diagnose=True)
    try:
        raises()
    except BaseException as e:
        log_exception("The bot ended:", e)
    finally:
        logger.remove(sink)
    return "".join(lines)


def a_bot_that_holds_a_key():
    api_key = KEY
    settings = {"api_key": api_key}
    return len(settings) + None


def test_the_values_of_variables_are_not_logged():
    logged = logged_of(a_bot_that_holds_a_key)
    assert "The bot ended:" in logged
    assert "return len(settings) + None" in logged  # the line
    assert "a_bot_that_holds_a_key" in logged  # its function
    assert "TypeError: unsupported operand" in logged
    assert KEY not in logged


def test_nor_those_of_its_causes_and_of_a_group():
    def raises():
        try:
            a_bot_that_holds_a_key()
        except TypeError as e:
            held = KEY
            raise ExceptionGroup(f"{len(held)} held", [e, ValueError("another")]) from e

    logged = logged_of(raises)
    assert "ValueError: another" in logged
    assert KEY not in logged


def test_braces_and_tags_in_a_message_are_text():
    def raises():
        raise ValueError("{nothing} <red>{0}</red>")

    assert "{nothing} <red>{0}</red>" in logged_of(raises)


def test_control_characters_of_a_message_do_not_reach_a_terminal():
    def raises():
        raise ValueError("\x1b[2Jgone\rand back\x9b1m")

    logged = logged_of(raises)
    assert not {"\x1b", "\r", "\x9b"} & set(logged)
    assert "gone" in logged


def test_an_exception_that_cannot_be_printed_is_logged_all_the_same():
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    def raises():
        raise Mute

    assert "Mute" in logged_of(raises)


def test_a_long_message_is_cut():
    def raises():
        raise ValueError("x" * 5_000_000)

    assert len(logged_of(raises)) < 30_000


def test_the_package_hands_no_exception_to_a_sink():
    """Loguru would print the values of the variables with it."""
    for path in Path(mistral_service.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            name, on = node.func.attr, ast.unparse(node.func.value)
            if "logger" in on or name == "opt":
                keywords = {keyword.arg for keyword in node.keywords}
                assert name != "exception", f"{path}:{node.lineno}"
                assert not {"exception", "exc_info"} & keywords, f"{path}:{node.lineno}"
