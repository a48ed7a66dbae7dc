"""A probe: an assumption, the requests that test it, and how the answers are evaluated."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum

from mistral_service.conformance.answer import Answer, Json, Refused, Request


class State(Enum):
    """How the answers compare with the assumption."""

    AS_ASSUMED = "as assumed"
    DIFFERS = "differs"
    NOT_KNOWN = "not known"


@dataclass(frozen=True)
class Finding:
    """The result of a probe.

    Parameters:
        state: How it compares with the assumption.
        came: What the server answered, or why nothing is known, in a sentence.
        facts: The same as data, for `serve --as`.
    """

    state: State
    came: str
    facts: Json = field(default_factory=dict[str, object])

    @classmethod
    def of(cls, good: bool, came: str, **facts: object) -> "Finding":
        """A finding that is as assumed, or differs."""
        return cls(State.AS_ASSUMED if good else State.DIFFERS, came, facts)

    @classmethod
    def unknown(cls, why: str, **facts: object) -> "Finding":
        """A finding that says why nothing is known."""
        return cls(State.NOT_KNOWN, why, facts)

    @classmethod
    def of_refusal(cls, refused: Refused, *, as_assumed: bool = False) -> "Finding":
        """A finding that the request was refused."""
        return cls.of(as_assumed, str(refused), refused=asdict(refused))


Evaluate = Callable[[Sequence[Answer]], Finding]
Predicate = Callable[[Json], bool]


@dataclass(frozen=True)
class Probe:
    """One assumption, and how to test it.

    Parameters:
        name: Its unique name: `R4`, `tool_choice any`.
        assumed: The assumption, in a sentence.
        source: The page of the documentation that relies on it, without `docs/`.
        requests: The requests, in order.
        evaluate: Makes a finding of the answers, one for each request.
        applies_to: Which bodies are refused for the same reason; None where a refusal is not about
            the body.
        needs: A capability that the model must have, by its name in `GET /v1/models`.
        opens: Whether a 5xx counts as an answer: some servers refuse with one.
        after: A probe whose request must be accepted; otherwise nothing is known of this one.
    """

    name: str
    assumed: str
    source: str
    requests: tuple[Request, ...]
    evaluate: Evaluate
    applies_to: Predicate | None = None
    needs: str | None = None
    opens: bool = False
    after: str | None = None


def of_reply(evaluate: Callable[[Answer], Finding]) -> Evaluate:
    """Evaluate the last reply that was sent; a refusal differs from the assumption."""

    def of_answers(answers: Sequence[Answer]) -> Finding:
        last = [answer for answer in answers if not answer.skipped][-1]
        return evaluate(last) if last.refused is None else Finding.of_refusal(last.refused)

    return of_answers


accepted = of_reply(lambda _: Finding.of(True, "accepted"))
"""The request is accepted."""


def refused_with(
    *statuses: int, codes: Sequence[str] = (), types: Sequence[str] = (), may: bool = False
) -> Evaluate:
    """The first request is refused, and the second, if there is one, is accepted.

    Without codes or types, any will do. With `may`, acceptance is as assumed too: only some
    deployments refuse the request.
    """

    def evaluate(answers: Sequence[Answer]) -> Finding:
        refused = answers[0].refused
        said = "accepted" if refused is None else str(refused)
        facts: Json = {} if refused is None else {"refused": asdict(refused)}
        good = may
        if refused is not None:
            good = (
                refused.status in statuses
                and (not codes or str(refused.code) in codes)
                and (not types or refused.type in types)
            )
        for valid in answers[1:]:
            if valid.refused is not None:
                good = False
                said += f"; mended, {valid.refused}"
                facts["mended"] = asdict(valid.refused)
        return Finding.of(good, said, **facts)

    return evaluate
