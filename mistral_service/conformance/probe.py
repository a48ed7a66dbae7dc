"""A probe: what is assumed, how it is asked, and how the answers are judged."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from mistral_service.conformance.answer import Answer, Json, Request


class State(Enum):
    """How what came compares with what is assumed."""

    AS_ASSUMED = "as assumed"
    DIFFERS = "differs"
    NOT_KNOWN = "not known"


@dataclass(frozen=True)
class Finding:
    """What came of a probe.

    Parameters:
        state: How it compares with what is assumed.
        came: What came, or why nothing is known, in a sentence.
        facts: The same as data, for `serve --as`.
    """

    state: State
    came: str
    facts: Json = field(default_factory=dict[str, object])

    @classmethod
    def of(cls, good: bool, came: str, **facts: object) -> "Finding":
        """A finding that is either as assumed, or not."""
        return cls(State.AS_ASSUMED if good else State.DIFFERS, came, facts)

    @classmethod
    def unknown(cls, why: str, **facts: object) -> "Finding":
        """A finding that says why nothing is known."""
        return cls(State.NOT_KNOWN, why, facts)


Judge = Callable[[Sequence[Answer]], Finding]
Sign = Callable[[Json], bool]


@dataclass(frozen=True)
class Probe:
    """One assumption of ours, and how to ask about it.

    Parameters:
        name: Its name: `R4`, `tool_choice any`. No other probe has it.
        assumed: What is assumed, in a sentence.
        source: The page of the documentation that says so, without `docs/`.
        requests: What is sent, in order.
        judge: Makes a finding of the answers, one for each request.
        sign: Which bodies a refusal speaks for; None where none can be refused for it.
        needs: What the model must be able to do: a capability of `GET /v1/models`.
        opens: Whether a server that answers 5xx has answered: a refusal may be disguised as one.
        after: A probe whose request must be accepted; else nothing is known of this one.
    """

    name: str
    assumed: str
    source: str
    requests: tuple[Request, ...]
    judge: Judge
    sign: Sign | None = None
    needs: str | None = None
    opens: bool = False
    after: str | None = None


def taken(answers: Sequence[Answer]) -> Finding:
    """The request is accepted."""
    refused = answers[0].refused
    if refused is not None:
        return Finding.of(False, str(refused), refused=refused.as_json())
    return Finding.of(True, "accepted")


def refused_with(
    *statuses: int, codes: Sequence[str] = (), types: Sequence[str] = (), may: bool = False
) -> Judge:
    """A judge: the first request is refused, and the second, if there is one, is accepted.

    Args:
        statuses: The statuses that are assumed.
        codes: The codes that are assumed; any where it is empty.
        types: The types that are assumed; any where it is empty.
        may: Whether it is as assumed, too, where the server accepts it: some deployments refuse it.
    """

    def judge(answers: Sequence[Answer]) -> Finding:
        refused = answers[0].refused
        said = "accepted" if refused is None else str(refused)
        facts: Json = {} if refused is None else {"refused": refused.as_json()}
        good = may
        if refused is not None:
            good = (
                refused.status in statuses
                and (not codes or str(refused.code) in codes)
                and (not types or refused.type in types)
            )
        for mended in answers[1:]:
            if mended.refused is not None:
                good = False
                said += f"; mended, {mended.refused}"
                facts["mended"] = mended.refused.as_json()
        return Finding.of(good, said, **facts)

    return judge
