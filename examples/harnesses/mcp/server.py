"""An MCP stdio server that is a sub-agent of the harness that starts it.

The harness's configuration has as command:
hostbadge run --as docs --file token=https://api.example.com -- python3 server.py
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from mcp.server import MCPServer

import tool  # examples/harnesses/tool.py

server = MCPServer("docs")


@server.tool()
def whoami() -> dict:
    """Which agent this server is, and what its token says."""
    return tool.report()


if __name__ == "__main__":
    server.run()
