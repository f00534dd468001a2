"""Two agents of the OpenAI Agents SDK. What they start is a sub-agent: a tool and an MCP server.

Agents and handoffs are objects in this process, which is one agent for hostbadge. Only what they start is a sub-agent.
"""

import asyncio
import os
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(EXAMPLES))

from agents import Agent, Runner, function_tool
from agents.mcp import MCPServerStdio

import sub_agent  # examples/harnesses/sub_agent.py

# Of the environment, the SDK passes only PATH, HOME and a few others to a server.
PASSED = {name: os.environ[name] for name in ("HOSTBADGE_SOCKET", "XDG_RUNTIME_DIR") if name in os.environ}


@function_tool
async def fetch() -> str:
    """Fetches documents."""
    return await asyncio.to_thread(sub_agent.run, "fetch", sys.executable, str(EXAMPLES / "tool.py"))


def docs_server():
    """The MCP server: its command runs as the sub-agent `docs`."""
    words = ["run", "--quiet", "--as", "docs", "--grant", f"{sub_agent.AUDIENCE} docs.read"]
    words += ["--file", f"token={sub_agent.AUDIENCE}", "--", sys.executable, str(EXAMPLES / "mcp" / "server.py")]
    return MCPServerStdio({"command": "hostbadge", "args": words, "env": PASSED}, client_session_timeout_seconds=30)


async def main(model=None):
    """Runs both agents; `model` is that of the SDK unless it is given."""
    async with docs_server() as server:
        reader = Agent(name="reader", instructions="Read the docs.", mcp_servers=[server], model=model)
        fetcher = Agent(name="fetcher", instructions="Fetch.", tools=[fetch], handoffs=[reader], model=model)
        result = await Runner.run(fetcher, "Fetch, and let the reader say who it is.")
        return result.final_output


if __name__ == "__main__":
    print(asyncio.run(main()))
