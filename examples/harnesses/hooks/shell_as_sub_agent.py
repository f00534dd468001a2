#!/usr/bin/env python3
"""A PreToolUse hook of Claude Code and Codex: each command of the shell tool runs as a sub-agent.

A command of a sub-agent of the harness has the name of its kind (`agent_type`), and one of the main conversation has
the name `main`. The hook decides nothing about permissions: Claude Code asks as before, for the new command. Codex takes
a new command only with the decision `allow`, for which the hook has the argument `allow`.
"""

import json
import re
import secrets
import shlex
import sys

AUDIENCE = "https://api.example.com"
# The scopes of each name. A name that is not here gets its identity alone.
SCOPES = {"fetcher": "docs.read"}


def main():
    event = json.load(sys.stdin)
    kind = re.sub(r"[^a-z0-9._-]+", "-", event.get("agent_type", "main").lower()).strip("-._")[:40] or "agent"
    # Commands can run at the same time, and two sub-agents cannot have one name.
    words = ["hostbadge", "run", "--quiet", "--as", f"{kind}-{secrets.token_hex(4)}"]
    if kind in SCOPES:
        words += ["--grant", f"{AUDIENCE} {SCOPES[kind]}", "--file", f"token={AUDIENCE}"]
    else:
        words += ["--no-grants"]
    words += ["--", "bash", "-c", event["tool_input"]["command"]]
    tool_input = dict(event["tool_input"], command=shlex.join(words))
    output = {"hookEventName": "PreToolUse", "updatedInput": tool_input}
    if sys.argv[1:] == ["allow"]:
        output["permissionDecision"] = "allow"
    print(json.dumps({"hookSpecificOutput": output}))


try:
    main()
except Exception as error:
    # This status stops the command. After others, the harness runs it unchanged.
    print(f"the command cannot run as a sub-agent: {error}", file=sys.stderr)
    sys.exit(2)
