"""Starts the MCP server of the example as a sub-agent, and calls its tool: mcp_client.py DIRECTORY-OF-THE-EXAMPLES"""

import asyncio
import json
import os
import sys

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client


async def main():
    words = ["run", "--quiet", "--as", "docs", "--grant", "https://api.example.com docs.read"]
    words += ["--file", "token=https://api.example.com", "--", sys.executable, sys.argv[1] + "/mcp/server.py"]
    passed = {"HOSTBADGE_SOCKET": os.environ["HOSTBADGE_SOCKET"], "DOCS_API_KEY": "0123456789abcdef"}
    server = StdioServerParameters(command="hostbadge", args=words, env=passed)
    async with stdio_client(server) as (reader, writer), ClientSession(reader, writer) as session:
        await session.initialize()
        said = json.loads((await session.call_tool("whoami", {})).content[0].text)
        print(said["agent"], said["token_of"], said["scope"], said["api_keys"])


asyncio.run(main())
