"""Offer a running service to assistants, by the Model Context Protocol (MCP) on standard input and output.

    run(Client("http://127.0.0.1:8000"))     # until the assistant closes the input

The assistant's program starts `gve mcp` and may call its tools: `search_videos`, `look_at`, `embed`
and `list_models`. Files that it names are read with the rights of the user who started it.
"""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar

from pydantic import BaseModel, Field

from gve_ray import __version__
from gve_ray.serving.client import Client, ServiceError

if TYPE_CHECKING:
    from mcp.server import MCPServer

P = ParamSpec("P")
T = TypeVar("T")

_INSTRUCTIONS = (
    "Finds moments in a collection of videos by what they show and what is said in them. Describe the scene in a "
    "sentence; an image or a clip works as well, alone or with a text that changes it. Look at a hit before you "
    "rely on it."
)
_MOST_HITS = 100


class Moment(BaseModel):
    """A moment of a video. start, end: seconds. score: cosine similarity. confidence: that it is no coincidence, 0
    to 1. confident: whether that is enough; null if unknown. words: what is said or written there, if it matches.
    link: plays it. frames: for `look_at`.
    """

    id: str
    score: float
    confidence: float | None = None
    confident: bool | None = None
    words: dict[str, Any] | None = None
    uri: str
    start: float
    end: float
    link: str
    frames: str
    metadata: dict[str, Any]


class Model(BaseModel):
    """A model of the service. segments: number of indexed moments, fields: for filters; null without an index."""

    id: str
    dimension: int
    segments: int | None
    fields: dict[str, str] | None


def run(client: Client) -> None:
    """Serve the tools on standard input and output until the input ends."""
    server_of(client).run("stdio")


def server_of(client: Client) -> "MCPServer[Any]":
    """Return an MCP server whose tools ask the service of a client."""
    from mcp.server import MCPServer
    from mcp.server.mcpserver import Image
    from mcp.server.mcpserver.exceptions import ToolError
    from mcp_types import ToolAnnotations

    def told(tool: Callable[P, T]) -> Callable[P, T]:
        """Let the assistant read why the service refused a request, or a file cannot be read."""

        @wraps(tool)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return tool(*args, **kwargs)
            except (ServiceError, OSError) as error:
                raise ToolError(str(error)) from error

        return call

    @told
    def search_videos(
        text: Annotated[str | None, Field(description="What the moment shows, in a sentence.")] = None,
        image: Annotated[Path | None, Field(description="Path of a picture.")] = None,
        video: Annotated[Path | None, Field(description="Path of a clip.")] = None,
        like: Annotated[
            list[str] | None,
            Field(description="IDs of moments found before; the result is similar to all of them."),
        ] = None,
        without: Annotated[
            str | None, Field(description="What the pictures should not show, such as 'a dog'.")
        ] = None,
        top_k: Annotated[int, Field(ge=1, le=_MOST_HITS)] = 5,
        filter: Annotated[
            dict[str, Any] | None,
            Field(description='Conditions on fields, such as {"duration": {"lte": 60}}; see list_models.'),
        ] = None,
        model: Annotated[str | None, Field(description="Default: the first one with an index.")] = None,
    ) -> list[Moment]:
        """Find the moments that match a text, a picture, a clip, other moments, or a mix of them, best first."""
        hits = client.search(
            text,
            image=image,
            video=video,
            like=like or [],
            without=without,
            top_k=top_k,
            filter=filter,
            model=model,
        )
        return [
            Moment(**hit, link=client.absolute(hit["links"]["video"]), frames=hit["links"]["strip"])
            for hit in hits
        ]

    @told
    def look_at(
        frames: Annotated[str, Field(description="Of a moment that search_videos has found.")],
    ) -> Image:
        """Return frames of a moment, side by side in their order."""
        return Image(data=client.picture(frames), format="jpeg")

    @told
    def embed(
        texts: Annotated[list[str], Field(min_length=1)],
        model: Annotated[str | None, Field(description="Default: the first one.")] = None,
    ) -> list[list[float]]:
        """Return the unit vector of each text, to compare texts with each other or with vectors of videos."""
        return client.embed(texts, model=model)

    @told
    def list_models() -> list[Model]:
        """Return the models of the service, with the sizes and the filter fields of their indexes."""
        return [
            Model(
                id=model["id"],
                dimension=model["dimension"],
                segments=model["index"] and model["index"]["segments"],
                fields=model["index"] and model["index"]["fields"],
            )
            for model in client.models()
        ]

    server: MCPServer[Any] = MCPServer(
        "gve", title="Video search", instructions=_INSTRUCTIONS, version=__version__, log_level="WARNING"
    )
    for tool in (search_videos, look_at, embed, list_models):
        server.add_tool(tool, annotations=ToolAnnotations(read_only_hint=True, open_world_hint=False))
    return server
