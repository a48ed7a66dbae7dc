"""The settings of the service, and the validation of their values."""

import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self, cast

from openai._types import NotGiven as OpenAINotGiven
from openai._types import Omit
from pipecat.services.openai.base_llm import OpenAILLMSettings
from pipecat.utils.types import NOT_GIVEN, NotGiven
from pydantic import TypeAdapter, ValidationError

from mistral_service.conversation.conversion import ImageBudget
from mistral_service.conversation.encoding import Form, model_image_side
from mistral_service.reply.clauses import CLAUSE_TIMEOUT
from mistral_service.reply.speech import SENTENCE_TIMEOUT
from mistral_service.setting_bounds import ALLOWED, is_well_formed
from mistral_service.turn.retries import Limits
from mistral_service.wire.access import bad_header
from mistral_service.wire.models import DEFAULT_MODEL

MOST_IMAGES_BYTES = 256_000_000
"""Bytes that all images in the context of a call may have, by default."""

UNSET = (NotGiven, OpenAINotGiven, Omit)
"""The types whose instances mean "not given", Pipecat's and the OpenAI client's."""


def given(*values: Any) -> Any:
    """The first value that is given and not None; None if there is none."""
    return next((v for v in values if v is not None and not isinstance(v, UNSET)), None)


def _not_given() -> Any:
    return field(default_factory=lambda: NOT_GIVEN)


@dataclass
class MistralLLMSettings(OpenAILLMSettings):
    """Settings for `MistralLLMService`.

    All of Pipecat's settings are supported: `model`, `system_instruction`, `temperature` (0 to
    1.5), `top_p`, `top_k`, `max_tokens` and `max_completion_tokens` (both limit the reply),
    `frequency_penalty` and `presence_penalty` (-2 to 2), `seed`, `extra` (further fields of the
    request's body, under Mistral's names), and those that Pipecat sets by frame.

    Every setting can change during a conversation, between turns or within one, with
    `LLMUpdateSettingsFrame(delta=MistralLLMService.Settings(temperature=0.2))`. Values are checked
    when the service is made and when an update comes. An update with a bad value is refused as a
    whole, and the conversation goes on as it was. The bounds are those of Mistral's API.

    Parameters:
        random_seed: Makes replies reproducible; overrides Pipecat's `seed`.
        safe_prompt: Whether Mistral adds its safety prompt.
        response_format: The format of the reply: `{"type": "json_object"}`, or `{"type":
            "json_schema", "json_schema": {"name": …, "schema": …}}`.
        tool_choice: Which functions may be called: `auto`, `any`, `required`, `none`, or
            `{"type": "function", "function": {"name": …}}`. A choice in the context overrides it.
        parallel_tool_calls: Whether one reply may call several functions.
        min_tokens: The fewest tokens of a reply.
        repetition_penalty: Makes tokens that are already in the prompt or the reply less likely
            (above 1) or more likely (below 1).
        logprobs: Whether the reply comes with the log probability of each token. The service does
            not use it: it is for a subclass that reads the stream itself.
        top_logprobs: How many alternatives are listed for each token; with `logprobs` only.
        prompt_logprobs: As `logprobs`, for the tokens of the prompt. Only for short conversations:
            a long one makes a chunk that is larger than this service reads.
        top_prompt_logprobs: As `top_logprobs`, with `prompt_logprobs` only.
        reasoning_effort: How much a reasoning model thinks: `none` or `high` for Mistral's own
            models; models of others that Mistral hosts take more values, up to `max`.
        prompt_mode: `reasoning`, for models that support it; others refuse it.
        prediction: The expected reply: `{"type": "content", "content": …}`.
        stop: One or more strings at which the reply ends.
        n: Replies per request; a voice speaks one, so only 1 is allowed.
        prompt_cache_key: The key by which Mistral finds the cached beginning of a prompt. Defaults
            to a key for each service, which is one conversation; None turns it off.
        guardrails: Mistral's moderation of requests and replies.
        service_tier: `auto` or `standard_only`.
        metadata: Data that Mistral's logs store with the request.
        keep_thoughts: Whether the thoughts of a reasoning model are stored in the context and sent
            back to it on later turns. Off by default: they cost tokens, and older models refuse
            them.
        repeated_calls: What happens to a call that differs from another of the same turn only in
            its id: `run` (the default) runs both, `reuse` answers it with the result of the first.
        connect_timeout: Seconds to establish a connection, TLS included (default 2).
        first_token_timeout: Seconds from a request to its first output (default 4).
        stall_timeout: Seconds without output after which a stream counts as dead (default 3).
        turn_timeout: Seconds of silence, from the beginning of a turn or the last spoken sentence,
            within which the bot speaks again or reports an error (default 9; 30 while a model
            thinks or writes a call).
        max_attempts: Requests that one turn may send (default 3); 1 turns retries off, also after
            an empty reply.
        inference_timeout: Seconds to the end of the reply to `run_inference`, all attempts included
            (default 120).
        hedging: Whether a late request is hedged: a second one is sent in parallel, the first to
            speak wins, and the other is closed (default True).
        hedge_after: Seconds after which a request is hedged. Defaults to the 95th percentile of
            this session's last 20 turns, at least one second (two in its first five turns).
        fallback_models: Models to ask, in this order, where the bot's own is overloaded,
            unavailable or failing repeatedly; at the service's `fallback_base_url` if it has one.
        max_images: The most images of a request: 0 to 8, which is Mistral's limit and the default.
            The newest are sent; fewer cost less and answer sooner.
        max_images_bytes: The most bytes of all images of a request, as they are sent (default
            6,000,000: eight full images). The newest image is always sent.
        images_of_last_turn_only: Whether only the images of the last turn are sent.
        max_context_images_bytes: The most bytes of all images in the context, sent or not (default
            256,000,000, some 700 frames of a camera). A further frame does not enter the context
            until earlier ones are removed.
        max_image_pixels: The most pixels of an image, width times height, before it is scaled down
            (default 16,777,216, which is 4096×4096; up to 67,108,864). The size is read from the
            header, and a larger image is not decoded. A JPEG may have four times as many, since it
            is decoded at a reduced size. Decoding takes up to 32 bytes of memory a pixel.
        image_side: Pixels to which the longer side of an image is scaled down. Defaults to the
            model's resolution: 1540, or 1024 for Pixtral.
        image_quality: The quality of the JPEGs, from 1 to 95. Defaults to 75, the lowest at which
            the least legible line on a page of small text keeps a similarity (SSIM) of 0.95:
            284 kB for a camera's frame of 1540×866. At 50 it is 0.91 and 181 kB, at 90 0.99 and
            530 kB (`benchmarks/images.py`).
        sentence_timeout: Seconds from the first word of a sentence to its end. A voice speaks whole
            sentences: where a stream is slower, as at a word a second, the sentence is ended after
            the last word that came, so that the caller hears it. A stream as fast as speech has
            twice as long. Defaults to 4, or to `first_token_timeout` where that is longer.
        text_frames: The text in a frame of a reply. `token`: what one read of the stream brings.
            `clause` (the default): the same up to the end of the first sentence; after it, words
            are gathered up to the end of a clause, for at most 0.1 s. Sentences reach the voice at
            the same time, and fewer frames cost less CPU.
        max_calls_per_reply: Functions that one reply may call (default 64). Further calls do not
            run, and one result says so to the model.
        max_tool_rounds: Consecutive replies without words that may call functions before the caller
            speaks again (default 10). Then the model is asked once without functions, so that it
            speaks.
        empty_reply_text: What the voice says where the model replies with nothing twice, such as
            "Sorry, could you say that again?". Defaults to None: an `ErrorFrame` reports it.
        slow_function_text: What the voice says, once for the calls of a reply, while a function
            keeps the caller waiting, such as "One moment, please.". Nothing is said where the reply
            itself has words. Defaults to None: nothing is said.
        slow_function_after: Seconds after which `slow_function_text` is said (default 2).
    """

    random_seed: int | None | NotGiven = _not_given()
    safe_prompt: bool | None | NotGiven = _not_given()
    response_format: dict[str, Any] | None | NotGiven = _not_given()
    tool_choice: str | dict[str, Any] | None | NotGiven = _not_given()
    parallel_tool_calls: bool | None | NotGiven = _not_given()
    min_tokens: int | None | NotGiven = _not_given()
    repetition_penalty: float | None | NotGiven = _not_given()
    logprobs: bool | None | NotGiven = _not_given()
    top_logprobs: int | None | NotGiven = _not_given()
    prompt_logprobs: bool | None | NotGiven = _not_given()
    top_prompt_logprobs: int | None | NotGiven = _not_given()
    reasoning_effort: str | None | NotGiven = _not_given()
    prompt_mode: str | None | NotGiven = _not_given()
    prediction: dict[str, Any] | None | NotGiven = _not_given()
    stop: str | list[str] | None | NotGiven = _not_given()
    n: int | None | NotGiven = _not_given()
    prompt_cache_key: str | None | NotGiven = _not_given()
    guardrails: list[dict[str, Any]] | None | NotGiven = _not_given()
    service_tier: str | None | NotGiven = _not_given()
    metadata: dict[str, Any] | None | NotGiven = _not_given()
    keep_thoughts: bool | None | NotGiven = _not_given()
    repeated_calls: str | None | NotGiven = _not_given()
    sentence_timeout: float | None | NotGiven = _not_given()
    text_frames: str | None | NotGiven = _not_given()
    max_calls_per_reply: int | None | NotGiven = _not_given()
    max_tool_rounds: int | None | NotGiven = _not_given()
    empty_reply_text: str | None | NotGiven = _not_given()
    connect_timeout: float | None | NotGiven = _not_given()
    first_token_timeout: float | None | NotGiven = _not_given()
    stall_timeout: float | None | NotGiven = _not_given()
    turn_timeout: float | None | NotGiven = _not_given()
    max_attempts: int | None | NotGiven = _not_given()
    inference_timeout: float | None | NotGiven = _not_given()
    hedging: bool | None | NotGiven = _not_given()
    hedge_after: float | None | NotGiven = _not_given()
    fallback_models: list[str] | None | NotGiven = _not_given()
    max_images: int | None | NotGiven = _not_given()
    max_images_bytes: int | None | NotGiven = _not_given()
    images_of_last_turn_only: bool | None | NotGiven = _not_given()
    max_context_images_bytes: int | None | NotGiven = _not_given()
    max_image_pixels: int | None | NotGiven = _not_given()
    image_side: int | None | NotGiven = _not_given()
    image_quality: int | None | NotGiven = _not_given()
    slow_function_text: str | None | NotGiven = _not_given()
    slow_function_after: float | None | NotGiven = _not_given()

    def __repr__(self) -> str:
        """The settings that have a value, without secrets."""
        shown = [(f.name, getattr(self, f.name)) for f in fields(self)]
        words = [
            f"{name}={_without_values(value) if name == 'extra' else value!r}"
            for name, value in shown
            if value is not None and not isinstance(value, UNSET)
        ]
        return f"{type(self).__name__}({', '.join(words)})"

    def limits(self) -> Limits:
        """The time limits of a turn, and its number of attempts."""
        default = Limits()
        return Limits(
            connect=given(self.connect_timeout, default.connect),
            first_token=given(self.first_token_timeout, default.first_token),
            stall=given(self.stall_timeout, default.stall),
            turn=given(self.turn_timeout, default.turn),
            attempts=given(self.max_attempts, default.attempts),
        )

    def sentence_within(self) -> float:
        """Seconds from the first word of a sentence to its end; no limit for JSON."""
        form: dict[str, Any] = given(self.response_format) or {"type": "text"}
        timeout: float = given(
            self.sentence_timeout, max(SENTENCE_TIMEOUT, self.limits().first_token)
        )
        return timeout if form.get("type") == "text" else math.inf

    def clause_within(self) -> float:
        """Seconds that a word of a reply may wait for the end of its clause."""
        return 0.0 if self.text_frames == "token" else CLAUSE_TIMEOUT

    @classmethod
    def initial(cls, model: str | None, given: Self | None) -> Self:
        """The initial settings of a service.

        Args:
            model: The model, where `given` has none.
            given: The user's settings.

        Raises:
            BadSetting: If a value is not allowed.
        """
        # Each of our fields has a value, None where it is unset.
        settings = cls(model=model)
        for name in {f.name for f in fields(cls)} - {f.name for f in fields(OpenAILLMSettings)}:
            setattr(settings, name, None)
        settings.prompt_cache_key = f"pipecat-{uuid.uuid4().hex}"
        if given is not None:
            settings.apply_update(given)
        # A bot that reads its model from an unset variable gets the default.
        settings.model = settings.model or DEFAULT_MODEL
        check_settings(settings)
        return settings

    def models(self) -> tuple[str, list[str]]:
        """The bot's model, and the fallback models."""
        return str(self.model), given(self.fallback_models) or []

    def form(self) -> Form:
        """How images are encoded."""
        return Form(
            side=given(self.image_side, model_image_side(str(self.model))),
            quality=given(self.image_quality, Form().quality),
            pixels=given(self.max_image_pixels, Form().pixels),
        )

    def budget(self) -> ImageBudget:
        """The images that a request may have."""
        default = ImageBudget()
        return ImageBudget(
            images=given(self.max_images, default.images),
            total_bytes=given(self.max_images_bytes, default.total_bytes),
            last_turn_only=bool(given(self.images_of_last_turn_only)),
        )

    def context_images_bytes(self) -> int:
        """Bytes that all images in the context may have."""
        return given(self.max_context_images_bytes, MOST_IMAGES_BYTES)


def _without_values(extra: Any) -> str:
    """Further fields of a request, without headers and the like, which may hold secrets."""
    if not isinstance(extra, Mapping):
        return "…"
    items = cast("Mapping[str, Any]", extra).items()
    return repr({k: "…" if k.startswith("extra_") else v for k, v in items})


class _Redacted:
    def __repr__(self) -> str:
        return "the given value (redacted: it may be a secret)"


class BadSetting(ValueError):
    """A setting has a value that Mistral would refuse.

    Attributes:
        name: The setting.
        value: The given value.
        allowed: The allowed values, in words.
    """

    def __init__(self, name: str, value: object, allowed: str) -> None:
        self.name = name
        self.value = value
        self.allowed = allowed
        shown = repr(value)
        shown = shown if len(shown) <= 100 else shown[:100] + "…"
        # Not `name=value`: Pipecat redacts what follows `key=` in an error.
        super().__init__(f"{name} must be {allowed}, not {shown}.")


_CHECKS = {name: TypeAdapter[Any](kind) for name, (kind, _) in ALLOWED.items()}


def _has_its_type(name: str, value: Any) -> bool:
    """Whether a value is not given, or has the type of its setting."""
    if value is None or isinstance(value, UNSET):
        return True
    try:
        # Strict: "0.5" is not a number and 1 is not a bool; an int is a number.
        _CHECKS[name].validate_python(value, strict=True)
    except ValidationError:
        return False
    return True


def check_settings(settings: OpenAILLMSettings) -> None:
    """Check every given setting against the bounds of Mistral's API.

    Args:
        settings: Settings in either of Pipecat's modes; None and values not given are valid.

    Raises:
        BadSetting: For the first value that is not allowed.
    """
    for name in (f.name for f in fields(settings) if f.name in _CHECKS):
        value = getattr(settings, name)
        if not _has_its_type(name, value) or not is_well_formed(name, value):
            raise BadSetting(name, value, ALLOWED[name][1])
    _check_extra(settings.extra)


def check_update(delta: Any) -> None:
    """Check an update as `check_settings` does; it cannot take the model away."""
    check_settings(delta)
    if delta.model is None:
        raise BadSetting("model", None, "the name of a model")


def _check_extra(extra: dict[str, Any]) -> None:
    """Check the fields in `extra` that are settings, and the client's own options."""
    for name, value in extra.items():
        if name in _CHECKS and not _has_its_type(name, value):
            raise BadSetting(f"extra[{name!r}]", value, ALLOWED[name][1])
    for name in ("extra_headers", "extra_query", "extra_body"):
        given: Any = extra.get(name)
        if given is None or isinstance(given, UNSET):
            continue
        if not isinstance(given, Mapping):
            raise BadSetting(f"extra[{name!r}]", _Redacted(), "a mapping")
        if name == "extra_headers" and (header := bad_header(cast("Any", given))) is not None:
            allowed = "a header of ASCII characters, without line breaks"
            raise BadSetting(f"extra[{name!r}][{header!r}]", _Redacted(), allowed)
