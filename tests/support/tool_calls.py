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


def registered(service, result="done", **options) -> list[str]:
    """Register two functions and return what will have run."""
    ran: list[str] = []

    async def handler(params) -> None:
        ran.append(params.tool_call_id)
        await params.result_callback(result)

    for name in ("one", "two"):
        service.register_function(name, handler, **options)
    return ran
