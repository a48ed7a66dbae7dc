"""`litellm` as a library: `python asked_by_litellm.py BASE_URL` prints what it heard, as JSON."""

import json
import os
import sys
from importlib.metadata import version

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # nothing is fetched

import litellm
from pydantic import BaseModel

USER = {"role": "user", "content": "Hello."}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}


class Place(BaseModel):
    city: str
    days: int


def ask(*messages: object, **more: object):
    return litellm.completion(
        model="mistral/mistral-small-latest",
        api_base=sys.argv[1],
        api_key="any",
        messages=[USER, *messages],
        **more,
    )


heard = {"version": version("litellm")}
heard["chat"] = ask().choices[0].message.content
heard["stream"] = [chunk.choices[0].delta.content or "" for chunk in ask(stream=True)]
said = ask(tools=[TOOL], tool_choice="required").choices[0].message
call = said.tool_calls[0]
heard["tool"] = [call.function.name, json.loads(call.function.arguments)]
result = {"role": "tool", "tool_call_id": call.id, "content": "rain"}
heard["after tool"] = ask(said, result, tools=[TOOL]).choices[0].message.content
heard["parsed"] = json.loads(ask(response_format=Place).choices[0].message.content)
print(json.dumps(heard))
