"""`pydantic-ai`: `python asked_by_pydantic_ai.py BASE_URL` prints what it heard, as JSON."""

import asyncio
import json
import sys
from importlib.metadata import version

from pydantic import BaseModel
from pydantic_ai import Agent, PromptedOutput
from pydantic_ai.models.mistral import MistralModel
from pydantic_ai.providers.mistral import MistralProvider


class Place(BaseModel):
    city: str
    days: int


async def main() -> None:
    provider = MistralProvider(api_key="any", base_url=sys.argv[1].removesuffix("/v1"))
    model = MistralModel("mistral-small-latest", provider=provider)
    agent = Agent(model)
    heard = {"version": version("pydantic-ai-slim")}
    heard["chat"] = (await agent.run("Hello.")).output
    async with agent.run_stream("Hello.") as reply:
        heard["stream"] = [text async for text in reply.stream_text(delta=True, debounce_by=None)]
    helped = Agent(model)

    @helped.tool_plain
    def weather(city: str) -> str:
        """Tell the weather."""
        heard["tool"] = ["weather", {"city": city}]
        return f"rain in {city}"

    heard["after tool"] = (await helped.run("Hello.")).output
    formed = Agent(model, output_type=PromptedOutput(Place))  # it knows no native form
    heard["parsed"] = (await formed.run("Hello.")).output.model_dump()
    print(json.dumps(heard))


asyncio.run(main())
