"""Mistral's API without a pipeline: models, chat, vectors, filling in, moderation."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Unpack

from loguru import logger

from mistral_service.client.answers import Answer, Moderation, moderations_of
from mistral_service.client.conversation import Chat, Fim, Message
from mistral_service.client.form import M, form_of, read_as, read_json
from mistral_service.client.parameters import ChatParameters, SamplingParameters
from mistral_service.client.requests import Requests
from mistral_service.client.turns import Turns
from mistral_service.client.vectors import Vector, vectors
from mistral_service.conversation.conversion import ToolFault, without
from mistral_service.conversation.rules import apply_rules
from mistral_service.conversation.tools import convert_tools
from mistral_service.reply.events import Event
from mistral_service.turn.clients import Clients, openai_client
from mistral_service.turn.retries import Limits
from mistral_service.turn.router import Router
from mistral_service.turn.state import TurnOptions
from mistral_service.wire.access import check_address, connections_for, key_for
from mistral_service.wire.client import fetch_models, place_of
from mistral_service.wire.models import Catalogue
from mistral_service.wire.servers import ServerName, check_server

CODESTRAL_BASE_URL = "https://codestral.mistral.ai/v1"
"""Codestral's own host, for keys that were made for it."""

LIMITS = Limits(connect=5.0, first_token=20.0, stall=10.0, turn=60.0, whole=600.0)
"""How long a request may take by default: no caller waits on a phone, and a batch may take long."""


class MistralClient:
    """A client for Mistral's endpoints.

    It shares its connections with the LLM services of the process, makes histories acceptable with
    the same rules, reports what goes wrong as the same `MistralError`, and decides as they do
    whether to try again. Use it as an asynchronous context manager, or close it.

    Example::

        async with MistralClient() as mistral:
            [vector] = await mistral.embed(["The pool opens at seven."])
            answer = await mistral.chat([{"role": "user", "content": "When does it open?"}])
            print(answer.text)
    """

    def __init__(
        self,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        codestral_base_url: str | None = None,
        codestral_api_key: str | None = None,
        default_headers: Mapping[str, str] | None = None,
        limits: Limits = LIMITS,
        concurrency: int = 4,
        server: ServerName | None = None,
        fallback_models: Sequence[str] = (),
        fallback_base_url: str | None = None,
        fallback_api_key: str | None = None,
        fallback_server: ServerName | None = None,
        hedging: bool = False,
    ) -> None:
        """Make the client; it connects when it is first used.

        Args:
            api_key: The key. Defaults to the environment variable `MISTRAL_API_KEY`.
            base_url: Where the API is. Where it is None, the environment variable
                `MISTRAL_BASE_URL`, if set, has the address.
            codestral_base_url: Where `fim` and `stream_fim` go instead, such as
                `CODESTRAL_BASE_URL`.
            codestral_api_key: The key there. Defaults to `api_key`.
            default_headers: Headers that every request carries, such as a gateway's.
            limits: How long a request may take, and how often it is tried.
            concurrency: The most batches of texts that are under way at once, at least 1.
            server: What kind of server `base_url` is, as in `MistralLLMService`.
            fallback_models: Models that chats are sent to, in order, while the chosen one fails.
            fallback_base_url: Where they are, as in `MistralLLMService`.
            fallback_api_key: The key there. Defaults to `api_key`.
            fallback_server: What kind of server that is.
            hedging: Whether a chat that is late to begin is sent a second time, in parallel.

        Raises:
            ValueError: If there is no key, or an argument is not allowed.
        """
        owner = type(self).__name__
        if concurrency < 1:
            raise ValueError(f"{owner}(concurrency={concurrency}) must be 1 or more.")
        if isinstance(fallback_models, str) or not all(fallback_models):
            raise ValueError(f"{owner}(fallback_models={fallback_models!r}) must list model names.")
        headers = {"default_headers": dict(default_headers or {})}
        own, fallback = connections_for(
            owner, (api_key, base_url), (fallback_api_key, fallback_base_url), headers
        )
        servers = (
            check_server(owner, "server", server),
            check_server(owner, "fallback_server", fallback_server),
        )
        main = openai_client(**own)
        options = TurnOptions(
            limits=replace(limits, thinking=max(limits.thinking, limits.whole)),
            hedging=hedging,
            empty_replies="limited",
        )
        clients = Clients(openai_client, lambda: main, own, fallback, servers)
        self._router = Router(clients, lambda: ("", fallback_models))
        self._main = Requests(main, limits, self._router)
        self._chats = Turns(self._router, options)
        # Code goes to one endpoint, and to no fallback.
        codestral, there = main, own
        if codestral_base_url:
            check_address(owner, "codestral_base_url", codestral_base_url)
            key = key_for(owner, codestral_api_key or own["api_key"], "codestral_api_key")
            there: dict[str, Any] = {**own, "api_key": key, "base_url": codestral_base_url}
            codestral = openai_client(**there)
        self._fim_clients = Clients(openai_client, lambda: codestral, there, None)
        fim_router = Router(self._fim_clients, lambda: ("", ()))
        self._fims = Turns(fim_router, replace(options, hedging=False, empty_replies="all"))
        self._batches = asyncio.Semaphore(concurrency)
        self._reported: set[ToolFault] = set()

    def __repr__(self) -> str:
        return f"MistralClient({place_of(self._main.client)!r})"

    async def __aenter__(self) -> "MistralClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Give the connections back."""
        await self._router.clients.close()
        await self._fim_clients.close()

    # --- models -----------------------------------------------------------------------------------

    async def models(self) -> Catalogue:
        """Ask which models there are, and what they can do.

        Returns:
            The catalogue: `models.find("mistral-small-latest").vision`.

        Raises:
            MistralError: If it cannot be had.
        """
        client = self._main.client
        return await self._main.within_limits(lambda seconds: fetch_models(client, seconds))

    # --- chat -------------------------------------------------------------------------------------

    async def chat(
        self,
        messages: Sequence[Message],
        *,
        model: str = "mistral-small-latest",
        **asking: Unpack[ChatParameters],
    ) -> Answer:
        """Ask for a reply and wait for the whole of it.

        Args:
            messages: The conversation, in OpenAI's or Mistral's form. It may be any: the rules of
                `docs/rules.md` make of it one that Mistral takes; it is left as it is.
            model: The model.
            **asking: How it is to answer; see `ChatParameters`.

        Returns:
            The reply.

        Raises:
            MistralError: If there is none; with the reason `EMPTY` if it says and calls nothing.
            ToolsNotPassable: If there are more tools than Mistral takes.
        """
        request = self._request(messages, asking, is_whole=True)
        return Answer.of(await self._chats.whole(request, model))

    async def stream_chat(
        self,
        messages: Sequence[Message],
        *,
        model: str = "mistral-small-latest",
        **asking: Unpack[ChatParameters],
    ) -> AsyncGenerator[Event]:
        """Ask for a reply as `chat` does, and take it as it comes.

        Yields:
            `Text` and `Thought` in order, every `ToolCall` whole, and a `Finish`
            (`mistral_service.reply.events`). Thoughts come again where the reply begins anew.

        Raises:
            MistralError: As `chat`; also if the reply breaks and cannot go on.
        """
        request = self._request(messages, asking)
        async with aclosing(self._chats.stream(request, model)) as events:
            async for event in events:
                yield event

    async def chat_json(
        self,
        messages: Sequence[Message],
        *,
        model: str = "mistral-small-latest",
        **asking: Unpack[ChatParameters],
    ) -> Any:
        """Ask as `chat` does, in JSON mode. The messages should say that JSON is wanted, and which.

        Returns:
            What the JSON says.

        Raises:
            MistralError: As `chat`; with the reason `FORM` if the reply is no JSON.
        """
        asking["response_format"] = {"type": "json_object"}
        return read_json(await self.chat(messages, model=model, **asking))

    async def chat_as(
        self,
        form: type[M],
        messages: Sequence[Message],
        *,
        model: str = "mistral-small-latest",
        **asking: Unpack[ChatParameters],
    ) -> M:
        """Ask as `chat` does, for a reply in the form of a pydantic model.

        Its JSON schema is sent, to be followed strictly.

        Returns:
            An instance of the model.

        Raises:
            MistralError: As `chat`; with the reason `FORM`, and what is wrong and where, if the
                reply is no such thing.
        """
        asking["response_format"] = form_of(form)
        return read_as(form, await self.chat(messages, model=model, **asking))

    # --- filling in -------------------------------------------------------------------------------

    async def fim(
        self,
        prompt: str,
        suffix: str | None = None,
        *,
        model: str = "codestral-latest",
        **sampling: Unpack[SamplingParameters],
    ) -> Answer:
        """Ask for what stands between two pieces of code, and wait for the whole of it.

        Args:
            prompt: The code before.
            suffix: The code after; without it the model goes on after the prompt.
            model: The model.
            **sampling: How it is chosen; see `SamplingParameters`.

        Returns:
            The reply; its text may be empty, where nothing is missing.

        Raises:
            MistralError: If there is none.
        """
        return Answer.of(await self._fims.whole(Fim(prompt, suffix, sampling), model))

    async def stream_fim(
        self,
        prompt: str,
        suffix: str | None = None,
        *,
        model: str = "codestral-latest",
        **sampling: Unpack[SamplingParameters],
    ) -> AsyncGenerator[Event]:
        """Ask as `fim` does, and take the code as it comes.

        Yields:
            `Text` in order, and a `Finish`.

        Raises:
            MistralError: If there is no reply, or it breaks in the middle.
        """
        async with aclosing(self._fims.stream(Fim(prompt, suffix, sampling), model)) as events:
            async for event in events:
                yield event

    # --- vectors ----------------------------------------------------------------------------------

    async def embed(
        self,
        texts: Sequence[str],
        *,
        model: str = "mistral-embed",
        output_dimension: int | None = None,
    ) -> list[Vector]:
        """Make vectors of texts.

        Args:
            texts: The texts, as many as there are: they are sent in batches that Mistral takes,
                some at once.
            model: The model.
            output_dimension: How many numbers a vector has, for models that leave a choice.

        Returns:
            A vector for each text, in their order: 1,024 numbers with `mistral-embed`.

        Raises:
            MistralError: If one batch fails; with the reason `TOO_LARGE` for a single text of more
                tokens than the model takes (8,192).
        """
        if isinstance(texts, str):
            raise TypeError("embed() takes a list of texts, and was given one text.")
        params: dict[str, Any] = {"model": model, "output_dimension": output_dimension}
        return await vectors(self._main, texts, params, self._batches)

    # --- moderation -------------------------------------------------------------------------------

    async def moderate(
        self, texts: Sequence[str], *, model: str = "mistral-moderation-latest"
    ) -> list[Moderation]:
        """Have texts judged, each by itself.

        Args:
            texts: The texts.
            model: The model.

        Returns:
            A judgement for each, in their order.

        Raises:
            MistralError: If there is none.
        """
        if isinstance(texts, str):
            raise TypeError("moderate() takes a list of texts, and was given one text.")
        if not texts:
            return []
        reply = await self._main.one("/moderations", {"model": model, "input": list(texts)})
        return moderations_of(reply, len(texts))

    async def moderate_chat(
        self, messages: Sequence[Message], *, model: str = "mistral-moderation-latest"
    ) -> Moderation:
        """Have the last message of a conversation judged, as it stands in it.

        Args:
            messages: As for `chat`; the last may be the assistant's.
            model: The model.

        Returns:
            The judgement.

        Raises:
            MistralError: If there is none.
        """
        sent = apply_rules([dict(message) for message in messages])
        # The rules end on a prefix where the assistant spoke last: here it is to be judged.
        sent[-1] = without(sent[-1], "prefix")
        reply = await self._main.one("/chat/moderations", {"model": model, "input": sent})
        return moderations_of(reply, 1)[0]

    def _request(
        self, messages: Sequence[Message], asking: ChatParameters, *, is_whole: bool = False
    ) -> Chat:
        # Lists of our own: the caller's may change, or end, while the reply is waited for.
        if tools := asking.get("tools"):
            asking = {**asking, "tools": list(tools)}
            for fault in convert_tools(asking["tools"]).faults:
                if fault not in self._reported:
                    self._reported.add(fault)
                    logger.warning(f"MistralClient: {fault}")
        return Chat(list(messages), asking, is_whole)
