"""The newest `mistralai`: `python asked_by_mistralai.py BASE_URL` prints what it heard, as JSON."""

import json
import sys
from importlib.metadata import version

from mistralai.client import Mistral
from pydantic import BaseModel

MODEL = "mistral-small-latest"
USER = {"role": "user", "content": "Hello."}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}


class Place(BaseModel):
    city: str
    days: int


with Mistral(api_key="any", server_url=sys.argv[1].removesuffix("/v1")) as client:
    ask = {"model": MODEL, "messages": [USER]}
    heard = {"version": version("mistralai")}
    heard["chat"] = client.chat.complete(**ask).choices[0].message.content
    with client.chat.stream(**ask) as events:
        heard["stream"] = [event.data.choices[0].delta.content for event in events]
    said = client.chat.complete(**ask, tools=[TOOL], tool_choice="any").choices[0].message
    call = said.tool_calls[0]
    heard["tool"] = [call.function.name, json.loads(call.function.arguments)]
    result = {"role": "tool", "tool_call_id": call.id, "name": "weather", "content": "rain"}
    ask["messages"] = [USER, said, result]
    heard["after tool"] = client.chat.complete(**ask, tools=[TOOL]).choices[0].message.content
    ask["messages"] = [USER]
    heard["parsed"] = client.chat.parse(Place, **ask).choices[0].message.parsed.model_dump()
    filled = client.fim.complete(model="codestral-latest", prompt="a = ", suffix="\n")
    heard["fim"] = filled.choices[0].message.content
    with client.fim.stream(model="codestral-latest", prompt="a = ") as events:
        heard["fim stream"] = [event.data.choices[0].delta.content for event in events]
    vectors = client.embeddings.create(model="mistral-embed", inputs=["One.", "Two."]).data
    heard["vectors"] = [len(each.embedding) for each in vectors]
    heard["models"] = MODEL in {model.id for model in client.models.list().data}
print(json.dumps(heard))
