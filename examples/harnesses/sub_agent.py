"""Starts a command as a sub-agent of the agent that this process is."""

import secrets
import subprocess

AUDIENCE = "https://api.example.com"


def run(name, *command, scope="docs.read"):
    """What the command prints. It has a token for AUDIENCE with this scope in $HOSTBADGE_RUN_DIR/token.

    Two sub-agents that run at the same time cannot have one name, so each call adds a suffix.
    """
    words = ["hostbadge", "run", "--quiet", "--as", f"{name}-{secrets.token_hex(4)}"]
    words += ["--grant", f"{AUDIENCE} {scope}", "--file", f"token={AUDIENCE}", "--", *command]
    return subprocess.run(words, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True).stdout
