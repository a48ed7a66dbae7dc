"""Functions that are offered, and calls of them as a reply has them."""

from pipecat.adapters.llm.schemas.function_schema import FunctionSchema


def tools(*names: str) -> list[FunctionSchema]:
    return [
        FunctionSchema(
            name=name, description="For tests.", properties={"a": {"type": "integer"}}, required=[]
        )
        for name in names
    ]


def called(name: str = "one", call_id: str = "abcdefgh1", **arguments) -> dict:
    return {"name": name, "id": call_id, "arguments": arguments}
