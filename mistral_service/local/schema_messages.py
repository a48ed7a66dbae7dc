"""The schema of the messages of a request, closed as Mistral's is."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from mistral_service.local.pieces import Json


class Closed(BaseModel):
    """A JSON object that has no other fields than those named."""

    model_config = ConfigDict(extra="forbid")


class TextPart(Closed):
    """Text."""

    type: Literal["text"]
    text: str


class ImageURL(Closed):
    """The address of an image."""

    url: str
    detail: Literal["low", "auto", "high"] | None = None


class ImagePart(Closed):
    """An image, by address or as a data URL."""

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
    input_audio: str


class ReferencePart(Closed):
    """Sources that an answer cites."""

    type: Literal["reference"]
    reference_ids: list[int | str]


class FilePart(Closed):
    """A file that was uploaded before."""

    type: Literal["file"]
    file_id: str


class ResourcePart(Closed):
    """The content of an MCP resource: text, or an image."""

    type: Literal["resource"]
    uri: str
    content: Annotated[TextPart | ImagePart, Field(discriminator="type")]


class ResourceLinkPart(Closed):
    """The address of a resource."""

    type: Literal["resource_link"]
    uri: str
    metadata: dict[str, str | int | float | bool] | None = None


class ToolReferencePart(Closed):
    """A result of a built-in tool, cited in a thought."""

    type: Literal["tool_reference"]
    tool: str
    title: str
    url: str | None = None
    favicon: str | None = None
    description: str | None = None


class ThinkingPart(Closed):
    """Reasoning of an earlier turn."""

    type: Literal["thinking"]
    thinking: list[
        Annotated[TextPart | ReferencePart | ToolReferencePart, Field(discriminator="type")]
    ]
    closed: bool = True
    signature: str | None = None


Part = Annotated[
    TextPart
    | ImagePart
    | DocumentPart
    | AudioPart
    | ReferencePart
    | FilePart
    | ResourcePart
    | ResourceLinkPart
    | ThinkingPart,
    Field(discriminator="type"),
]


class FunctionCall(Closed):
    """A function's name and arguments."""

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
