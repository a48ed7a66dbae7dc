"""The schema of a chat completion request, closed as Mistral's is.

The fields and their types are those of `ChatCompletionRequest` in the official `mistralai` SDK
(a test holds the two together); the SDK itself lets unknown fields pass, the API answers 422.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Json = dict[str, Any]


class Closed(BaseModel):
    """A JSON object without any field but those named."""

    model_config = ConfigDict(extra="forbid")


class TextPart(Closed):
    """Words."""

    type: Literal["text"]
    text: str


class ImageURL(Closed):
    """Where a picture is."""

    url: str
    detail: Literal["low", "auto", "high"] | None = None


class ImagePart(Closed):
    """A picture, by address or as a data URL."""

    type: Literal["image_url"]
    image_url: ImageURL | str


class DocumentPart(Closed):
    """A document, by address or as a data URL."""

    type: Literal["document_url"]
    document_url: str
    document_name: str | None = None


class AudioPart(Closed):
    """Sound, in base64 or by address."""

    type: Literal["input_audio"]
    input_audio: str | Json


class ReferencePart(Closed):
    """Sources that an answer cites."""

    type: Literal["reference"]
    reference_ids: list[int | str]


class FilePart(Closed):
    """A file that was uploaded before."""

    type: Literal["file"]
    file_id: str


class ThinkingPart(Closed):
    """Reasoning of an earlier turn."""

    type: Literal["thinking"]
    thinking: list[Annotated[TextPart | ReferencePart, Field(discriminator="type")]]
    closed: bool = True
    signature: str | None = None


Part = Annotated[
    TextPart | ImagePart | DocumentPart | AudioPart | ReferencePart | FilePart | ThinkingPart,
    Field(discriminator="type"),
]


class FunctionCall(Closed):
    """Which function, with what."""

    name: str
    arguments: Json | str


class ToolCall(Closed):
    """A call that the assistant made."""

    function: FunctionCall
    id: str = "null"
    type: Literal["function"] | None = None
    index: int = 0


class SystemMessage(Closed):
    """Instructions."""

    role: Literal["system"]
    content: str | list[Annotated[TextPart | ThinkingPart, Field(discriminator="type")]]


class UserMessage(Closed):
    """What the user says."""

    role: Literal["user"]
    content: str | list[Part]


class AssistantMessage(Closed):
    """What the assistant said or called."""

    role: Literal["assistant"]
    content: str | list[Part] | None = None
    tool_calls: list[ToolCall] | None = None
    prefix: bool = False


class ToolMessage(Closed):
    """A function's result."""

    role: Literal["tool"]
    content: str | list[Part]
    tool_call_id: str | None = None
    name: str | None = None


Message = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")
]


class Function(Closed):
    """A function that may be called."""

    name: str
    parameters: Json
    description: str = ""
    strict: bool = False


class FunctionTool(Closed):
    """A function among the tools."""

    type: Literal["function"] = "function"
    function: Function


class BuiltInTool(BaseModel):
    """A tool that Mistral runs itself; its options are its own."""

    type: Literal[
        "web_search",
        "web_search_premium",
        "code_interpreter",
        "image_generation",
        "document_library",
        "connector",
    ]


class FunctionName(Closed):
    """The name of the function that must be called."""

    name: str


class NamedToolChoice(Closed):
    """The one function that must be called."""

    type: Literal["function"] = "function"
    function: FunctionName


class JsonSchema(Closed):
    """The schema that a reply must follow."""

    name: str
    schema_definition: Json = Field(alias="schema")
    description: str | None = None
    strict: bool = False


class ResponseFormat(Closed):
    """The form that a reply must have."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: JsonSchema | None = None


class Prediction(Closed):
    """What the reply will probably be."""

    type: Literal["content"] = "content"
    content: str = ""


class Sampled(Closed):
    """What every request for a reply may say."""

    model: str
    temperature: float | None = Field(default=None, ge=0, le=1.5)
    top_p: float | None = Field(default=None, gt=0, le=1)
    max_tokens: int | None = Field(default=None, ge=0)
    min_tokens: int | None = Field(default=None, ge=0)
    stream: bool = False
    stop: str | list[str] | None = None
    random_seed: int | None = Field(default=None, ge=0)
    metadata: Json | None = None
    prompt_cache_key: str | None = None


class ChatCompletionRequest(Sampled):
    """The body of `POST /v1/chat/completions`."""

    messages: list[Message] = Field(min_length=1)
    response_format: ResponseFormat | None = None
    tools: list[FunctionTool | BuiltInTool] | None = Field(default=None, max_length=128)
    tool_choice: Literal["auto", "none", "any", "required"] | NamedToolChoice | None = None
    parallel_tool_calls: bool = True
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    repetition_penalty: float | None = None
    top_k: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    prompt_logprobs: bool | None = None
    top_prompt_logprobs: int | None = None
    n: int | None = Field(default=None, ge=1)
    prediction: Prediction | None = None
    reasoning_effort: str | None = None
    prompt_mode: Literal["reasoning"] | None = None
    guardrails: list[Json] | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    safe_prompt: bool = False


def issues_of(body: object, form: type[BaseModel] = ChatCompletionRequest) -> list[Json]:
    """Hold a body against a schema.

    Args:
        body: What the client sent, decoded from JSON.
        form: The schema.

    Returns:
        The entries of a 422's `detail`; empty if the body is as it should be.
    """
    try:
        form.model_validate(body)
    except ValidationError as e:
        return [
            {
                "type": error["type"],
                "loc": ["body", *error["loc"]],
                "msg": error["msg"],
                "input": error["input"],
            }
            for error in e.errors(include_url=False, include_context=False)
        ]
    return []
