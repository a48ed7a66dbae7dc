"""The schema of a chat completion request, closed as Mistral's is.

The fields and their types are those of `ChatCompletionRequest` in the official `mistralai` SDK 3.7
(a test compares the two). The SDK passes unknown fields; the API answers them with 422. The SDK has
no bounds of numbers: those here are from the API's errors, and no number of tokens is negative.
"""

from typing import Annotated, Generic, Literal, TypeVar

from pydantic import BaseModel, Discriminator, Field, Tag, ValidationError

from mistral_service.local.pieces import Json
from mistral_service.local.schema_messages import Closed, Message
from mistral_service.wire.trees import object_of

ThresholdsT = TypeVar("ThresholdsT")


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


class ToolConfiguration(Closed):
    """Which functions of a built-in tool are offered, and which need a confirmation."""

    exclude: list[str] | None = None
    include: list[str] | None = None
    requires_confirmation: list[str] | None = None


class ImageGenerationTool(Closed):
    """Images, made by Mistral."""

    type: Literal["image_generation"]
    tool_configuration: ToolConfiguration | None = None


class DocumentLibraryTool(Closed):
    """A search in the account's document libraries."""

    type: Literal["document_library"]
    library_ids: list[str]
    tool_configuration: ToolConfiguration | None = None


class ApiKey(Closed):
    """A key for a connector."""

    type: Literal["api-key"]
    value: str


class OAuth2Token(Closed):
    """A token for a connector."""

    type: Literal["oauth2-token"]
    value: str


class ConnectorTool(Closed):
    """An external service that Mistral connects to."""

    type: Literal["connector"]
    connector_id: str
    authorization: Annotated[ApiKey | OAuth2Token, Field(discriminator="type")] | None = None
    tool_configuration: ToolConfiguration | None = None


Tool = Annotated[
    Annotated[FunctionTool, Tag("function")]
    | Annotated[ImageGenerationTool, Tag("image_generation")]
    | Annotated[DocumentLibraryTool, Tag("document_library")]
    | Annotated[ConnectorTool, Tag("connector")],
    Discriminator(lambda tool: object_of(tool).get("type", "function")),
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


class Thresholds(Closed):
    """The score from which a category counts."""

    financial: float | None = None
    hate_and_discrimination: float | None = None
    health: float | None = None
    law: float | None = None
    pii: float | None = None
    selfharm: float | None = None
    sexual: float | None = None
    violence_and_threats: float | None = None


class Thresholds1(Thresholds):
    """The categories of the first version."""

    dangerous_and_criminal_content: float | None = None


class Thresholds2(Thresholds):
    """The categories of the second version."""

    criminal: float | None = None
    dangerous: float | None = None
    jailbreaking: float | None = None


class Moderation(Closed, Generic[ThresholdsT]):
    """What a moderation does."""

    action: Literal["none", "block"] | None = None
    ignore_other_categories: bool = False
    model_name: str | None = None
    custom_category_thresholds: ThresholdsT | None = None


class Guardrail(Closed):
    """A moderation of requests and replies."""

    block_on_error: bool = False
    moderation_llm_v1: Moderation[Thresholds1] | None = None
    moderation_llm_v2: Moderation[Thresholds2] | None = None


class Sampled(Closed):
    """The parameters that every request for a reply may have."""

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
    tools: list[Tool] | None = Field(default=None, max_length=128)
    tool_choice: Literal["auto", "none", "any", "required"] | NamedToolChoice | None = None
    parallel_tool_calls: bool = True
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    repetition_penalty: float | None = Field(default=None, gt=0)
    top_k: int | None = Field(default=None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0)
    prompt_logprobs: bool | None = None
    top_prompt_logprobs: int | None = Field(default=None, ge=0)
    n: int | None = Field(default=None, ge=1)
    prediction: Prediction | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = (
        None
    )
    prompt_mode: Literal["reasoning"] | None = None
    guardrails: list[Guardrail] | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    safe_prompt: bool = False


def issues_of(body: object, form: type[BaseModel] = ChatCompletionRequest) -> list[Json]:
    """Validate a decoded body: the entries of a 422's `detail`, or none if the body is valid."""
    try:
        form.model_validate(body)
    except ValidationError as e:
        errors = e.errors(include_url=False, include_context=False)
        return [{**error, "loc": ["body", *error["loc"]]} for error in errors]
    return []
