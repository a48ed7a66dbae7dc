"""`langchain-mistralai`: `python asked_by_langchain.py BASE_URL` prints what it heard, as JSON."""

import json
import sys
from importlib.metadata import version

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_mistralai import ChatMistralAI
from pydantic import BaseModel


class Place(BaseModel):
    city: str
    days: int


@tool
def weather(city: str) -> str:
    """Tell the weather."""
    return f"rain in {city}"


model = ChatMistralAI(model_name="mistral-small-latest", api_key="any", base_url=sys.argv[1])
hello = HumanMessage("Hello.")
heard = {"version": version("langchain-mistralai")}
heard["chat"] = model.invoke([hello]).content
heard["stream"] = [chunk.content for chunk in model.stream([hello])]
bound = model.bind_tools([weather], tool_choice="any")
said = bound.invoke([hello])
[call] = said.tool_calls
heard["tool"] = [call["name"], call["args"]]
result = ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"])
heard["after tool"] = model.bind_tools([weather]).invoke([hello, said, result]).content
formed = model.with_structured_output(Place, method="json_schema")
heard["parsed"] = formed.invoke([hello]).model_dump()
print(json.dumps(heard))
