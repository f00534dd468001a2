#!/usr/bin/env python3
"""The program behind the tools of these examples. `hostbadge run` starts it as a sub-agent.

It prints as JSON which agent it is, and what its token says. A real tool would send the token to the relying party.
"""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "python"))

import hostbadge  # examples/python/hostbadge.py


def report():
    """The identity of this process, and what the daemon says about the token in its file."""
    # hostbadge run replaces the file at half of the token's lifetime, so it is read for each use.
    token = (Path(os.environ["HOSTBADGE_RUN_DIR"]) / "token").read_text().strip()
    client = hostbadge.Client()
    valid = client.introspect(token)
    return {
        "agent": client.whoami()["agent"],
        "token_of": valid["client_id"],
        "for": valid["aud"],
        "scope": valid["scope"],
        "api_keys": sorted(name for name in os.environ if name.endswith("_API_KEY")),
    }


if __name__ == "__main__":
    print(json.dumps(report()))
