"""The MCP server, asked by the official client over standard input and output."""

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from tests.serving.conftest import Service

if TYPE_CHECKING:
    import mcp

T = TypeVar("T")


def ask(url: str, work: "Callable[[mcp.Client], Awaitable[T]]") -> T:
    """Start `gve mcp` as an assistant's program does, and return what `work` returns."""
    import mcp
    from mcp.client.stdio import StdioServerParameters, stdio_client

    parameters = StdioServerParameters(
        command=sys.executable, args=["-m", "gve_ray.cli", "mcp", "--url", url], env=dict(os.environ)
    )

    async def session() -> T:
        async with mcp.Client(stdio_client(parameters)) as client:
            return await work(client)

    return asyncio.run(session())


async def call(client: "mcp.Client", tool: str, **arguments: Any) -> Any:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    return result.structured_content["result"] if result.structured_content else result.content


def test_an_assistant_searches_looks_and_embeds(server: Service) -> None:
    video = Path(server.heldout.videos[3])
    text = server.heldout.queries["fine"][3].text

    async def work(client: "mcp.Client") -> None:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(tools) == {"search_videos", "look_at", "embed", "list_models"}
        assert all(tool.annotations and tool.annotations.read_only_hint for tool in tools.values())

        (model,) = await call(client, "list_models")
        assert (model["id"], model["segments"]) == ("demo", len(server.heldout.videos))
        assert model["fields"]["duration"] == "float"

        hits = await call(client, "search_videos", text=text, top_k=3)
        assert len(hits) == 3
        assert video.name in [Path(hit["uri"]).name for hit in hits]
        (same, *_) = await call(client, "search_videos", video=str(video), filter={"duration": {"gte": 0.5}})
        assert Path(same["uri"]) == video
        assert same["link"].startswith(f"{server.url}/media/demo/")

        (picture,) = await call(client, "look_at", frames=same["frames"])
        assert picture.mime_type == "image/jpeg"
        assert len(picture.data) > 1000

        vectors = np.array(await call(client, "embed", texts=[text, "something else"]))
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)

        for arguments, message in (
            ({"text": text, "filter": {"colour": 1}}, "colour"),
            ({"image": "/no/such/picture.png"}, "No such file"),
            ({}, "empty"),
            ({"text": text, "top_k": 0}, "top_k"),
        ):
            refused = await client.call_tool("search_videos", arguments)
            assert refused.is_error
            assert message in json.dumps([block.model_dump() for block in refused.content], default=str)
        assert (await client.call_tool("look_at", {"frames": "/v1/models"})).is_error

    ask(server.url, work)


def test_without_a_service_the_assistant_reads_why(tmp_path: Path) -> None:
    async def work(client: "mcp.Client") -> None:
        refused = await client.call_tool("search_videos", {"text": "a red ball"})
        assert refused.is_error
        assert "is `gve serve` running there" in refused.content[0].text

    ask("http://127.0.0.1:9", work)
