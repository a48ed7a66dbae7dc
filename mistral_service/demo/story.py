"""What became of a fault, in words.

"Cut after 11 words → resumed in 0.3 s, nothing repeated." Pure: what happened is handed in with its
time, and a message for the page comes out.
"""

import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["waiting", "struck", "met", "failed", "silent", "aloud", "dropped"]
"""`met`: the caller hears the reply. `failed`: an error was reported. `silent`: neither. `aloud`:
what was meant for a machine is spoken."""

FAULTS = {
    "cut": ("Cut", "cuts the stream after {words}"),
    "hang": ("The reply hangs", "lets the reply hang"),
    "429": ("429, the model is full", "answers 429"),
    "503": ("503, the service is unavailable", "answers 503"),
    "empty": ("An empty reply", "sends an empty reply"),
    "text-call": ("A function's call as text", "sends a function's call as text"),
    "down": ("The endpoint is down", "is down"),
}
"""The faults, as the page names them, and what the endpoint does, as a step of the story."""

_WORDS = re.compile(r"\S+")


@dataclass
class Story:
    """One fault and what followed.

    Parameters:
        number: Which fault of the call it is, from 1.
        kind: Which fault, of `faults.KINDS`.
        service: Which service met it: `mistral_service`, or Pipecat's own.
        lines: What happened, in words, and when, on the clock of `now` everywhere below.
    """

    number: int
    kind: str
    service: str
    state: State = "waiting"
    struck_at: float | None = None
    words: int = 0
    requests: int = 0
    handlings: int = 0
    lines: list[tuple[float, str]] = field(default_factory=list[tuple[float, str]])
    before: str = ""
    after: str = ""
    done: str = ""
    model: str = ""
    called: str = ""
    answered_at: float | None = None
    outcome: str = ""
    hedged: bool = False
    _held: deque[tuple[float, Callable[[], None]]] = field(
        default_factory=lambda: deque[tuple[float, Callable[[], None]]](maxlen=500)
    )

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to come."""
        return self.state not in ("waiting", "struck")

    @property
    def headline(self) -> str:
        """What happened, in one line."""
        title, _ = FAULTS[self.kind]
        if self.kind == "cut" and self.struck_at is not None:
            title = f"Cut after {counted(self.words, 'word')}"
        if self.state == "waiting":
            return f"{title}: waits for the next reply"
        return f"{title} → {self.outcome or 'nothing yet'}"

    def message(self, now: float) -> dict[str, Any]:
        """The story for the page, times relative to the fault."""
        zero = self.struck_at if self.struck_at is not None else now
        lines = sorted(self.lines, key=lambda line: line[0])
        return {
            "type": "fault",
            "number": self.number,
            "kind": self.kind,
            "service": self.service,
            "state": self.state,
            "headline": self.headline,
            "lines": [{"at": round(at - zero, 2), "text": text} for at, text in lines],
            "age": round(now - zero, 2),
        }

    def struck(self, now: float, words: int) -> None:
        """The endpoint has let the fault happen, after so many words of the reply.

        Its report comes on another way than the reply, and may come after what follows from it.
        """
        self.words = words
        self.struck_at = min(now, self.struck_at if self.struck_at is not None else now)
        if self.state == "waiting":
            self.state = "struck"
        _, report = FAULTS[self.kind]
        self._note(now, f"the endpoint {report.format(words=counted(words, 'word'))}")
        held = [happened for at, happened in self._held if at >= now]
        self._held.clear()
        for happened in held:
            happened()

    def request(self, now: float, model: str) -> None:
        """The endpoint got another request of this call."""
        self.requests += 1
        self._note(now, f"the endpoint gets another request, for {model}")

    def handled(self, now: float, done: str, attempt: int, model: str, why: str) -> None:
        """The service met the fault with another request."""
        if self.is_over:
            return
        if self.struck_at is None:
            self.struck_at = now  # the report of the endpoint is still on its way
            self.state = "struck"
        self.done, self.model = done, model
        self.handlings += 1
        self._note(now, f"the service has {done}: request {attempt} goes to {model}, after: {why}")

    def spoke(self, now: float, text: str) -> None:
        """The service pushed words."""
        if self.is_over and self.answered_at is None:
            return
        if self.kind == "cut" and not self.done:
            self.before += text  # as far as it came, or of a reply before the fault
            return
        if self._holds(now, lambda: self.spoke(now, text)):
            return
        self.after += text
        if self.answered_at is None and text.strip():
            self.answered_at = now
            self.state = "met"
            self._note(now, "the service pushes the first word of what follows")
        self._tell()

    def called_function(self, now: float, name: str) -> None:
        """A function of the bot runs."""
        if self._holds(now, lambda: self.called_function(now, name)) or self.is_over:
            return
        self._note(now, f"the service runs {name}")
        if self.kind == "text-call":
            self.called, self.state, self.answered_at = name, "met", now
        self._tell()

    def failed(self, now: float, sentence: str) -> None:
        """The service reported an error."""
        if self._holds(now, lambda: self.failed(now, sentence)) or self.is_over:
            return
        self.state = "failed"
        self.outcome = f"an error after {self._seconds(now)}: {sentence}"
        self._note(now, f"an error: {sentence}")

    def ended(self, now: float, hedged: bool | None = None) -> None:
        """The turn ended."""
        if hedged:
            self.hedged = True
        if self._holds(now, lambda: self.ended(now)):
            return
        if not self.is_over:
            self.state = "silent"
            what = "the turn ended without another word" if self.kind == "cut" else "not a word"
            self.outcome = f"{what}, and no error"
            self._note(now, "the turn ended")
        self._tell()

    def interrupted(self, now: float) -> None:
        """The user spoke, or switched the service."""
        if self.struck_at is not None and not self.is_over:
            self.state = "silent"
            self.outcome = f"nothing for {self._seconds(now)}, until you went on"
            self._note(now, "you went on")

    def dropped(self, why: str) -> None:
        """The fault is not to come any more."""
        if self.state == "waiting":
            self.state = "dropped"
            self.outcome = why

    def _holds(self, now: float, happened: Callable[[], None]) -> bool:
        """Hold back what happens until the endpoint has reported the fault."""
        if self.struck_at is None:
            self._held.append((now, happened))
        return self.struck_at is None

    def _tell(self) -> None:
        """Put together how the fault was met, as far as it is known."""
        if self.state not in ("met", "aloud") or self.answered_at is None:
            return
        seconds = self._seconds(self.answered_at)
        if self.called:
            self.outcome = f"read, and {self.called} runs after {seconds}"
        elif self.kind == "text-call" and self.after.lstrip().startswith("["):
            self.state = "aloud"
            self.outcome = f"spoken as it stands: {self.after.strip()[:60]}"
        elif self.kind == "cut":
            again = repeated(self.before, self.after)
            says = f"{counted(again, 'word')} repeated" if again else "nothing repeated"
            done = "resumed" if self.done != "moved" else f"{self.model} goes on"
            self.outcome = f"{done} in {seconds}, {says}"
        elif self.done == "moved" and self.handlings == 1:
            self.outcome = f"{self.model} answers after {seconds}"
        elif self.hedged or (self.kind == "hang" and not self.done):
            self.outcome = f"a second request in parallel answers after {seconds}"
        else:
            more = max(self.requests, self.handlings)
            how = counted(more, "more request") if more else "asked again"
            self.outcome = f"{how}, the answer comes after {seconds}"

    def _seconds(self, now: float) -> str:
        seconds = max(0.0, now - (self.struck_at or now))
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"

    def _note(self, now: float, text: str) -> None:
        self.lines.append((now, text))


def repeated(before: str, after: str) -> int:
    """How many of the last words of a text come again at the beginning of what follows it.

    A single word may come twice by chance, and is not counted.
    """
    said, new = (_WORDS.findall(text.lower()) for text in (before, after))
    most = min(len(said), len(new))
    return next((n for n in range(most, 1, -1) if said[-n:] == new[:n]), 0)


def counted(number: int, noun: str) -> str:
    """A number with its noun: `1 word`, `2 words`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
