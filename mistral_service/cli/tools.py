"""The functions of `mistral-service chat`."""

import ast
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, cast
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.FloorDiv: lambda a, b: a // b,
    ast.Mod: lambda a, b: a % b,
}
_LARGEST_POWER = 1000
_LONGEST = 500


def calculator(expression: str) -> str:
    """Evaluate an arithmetic expression of numbers, brackets and `+ - * / // % **`.

    Raises:
        ValueError: If it is not such an expression, or its result is out of bounds.
    """
    if len(expression) > _LONGEST:
        raise ValueError(f"an expression has at most {_LONGEST} characters")
    try:
        return str(_value(ast.parse(expression.strip(), mode="eval").body))
    except (SyntaxError, TypeError, ArithmeticError, RecursionError) as e:
        raise ValueError(f"{expression} cannot be evaluated: {e}") from None


def time(zone: str = "UTC") -> str:
    """The current date and time in ISO form, in a time zone of the IANA list: `Europe/Paris`.

    Raises:
        ValueError: If there is no such zone.
    """
    try:
        there = UTC if zone == "UTC" else ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"there is no time zone {zone!r}") from None
    return datetime.now(there).isoformat(timespec="seconds")


_FUNCTIONS: dict[str, tuple[Callable[..., str], str, dict[str, str], list[str]]] = {
    "calculator": (
        calculator,
        "Evaluates an arithmetic expression exactly.",
        {"expression": "Numbers, brackets and + - * / // % **, such as (2 + 3) * 4"},
        ["expression"],
    ),
    "time": (
        time,
        "Returns the current date and time.",
        {"zone": "A time zone of the IANA list, such as Europe/Paris; by default UTC"},
        [],
    ),
}

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {
                "type": "object",
                "properties": {
                    argument: {"type": "string", "description": said}
                    for argument, said in arguments.items()
                },
                "required": required,
            },
        },
    }
    for name, (_, description, arguments, required) in _FUNCTIONS.items()
]
"""The functions in Mistral's form."""


def call(name: str, arguments: str) -> str:
    """Run a function call of the model; returns the result, or an error for the model to read."""
    if name not in _FUNCTIONS:
        return f"error: there is no function {name}, only {', '.join(_FUNCTIONS)}"
    function, _, known, _ = _FUNCTIONS[name]
    try:
        given: object = json.loads(arguments or "{}")
        if not isinstance(given, dict) or not known.keys() >= cast("dict[str, Any]", given).keys():
            return f"error: {name} takes an object with {', '.join(known)}"
        return function(**{key: str(value) for key, value in cast("Any", given).items()})
    except (ValueError, TypeError) as e:
        return f"error: {e}"


def _value(node: ast.AST) -> float:
    match node:
        case ast.Constant(value=int() | float() as number):
            return number
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            base, power = _value(left), _value(right)
            # 9 ** 9 ** 9 would never end.
            if abs(power) > _LARGEST_POWER or abs(base) > 1e6:
                raise ValueError("that power is too large")
            return base**power
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_value(left), _value(right))
        case _:
            raise ValueError("only numbers, brackets and + - * / // % ** are understood")
