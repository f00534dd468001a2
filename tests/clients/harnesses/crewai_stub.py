"""Runs the example of CrewAI with a stub of a model: crewai_stub.py DIRECTORY-OF-THE-EXAMPLES"""

import os
import sys

os.environ["CREWAI_DISABLE_TELEMETRY"] = os.environ["OTEL_SDK_DISABLED"] = "true"
os.environ["CREWAI_TRACING_ENABLED"] = "false"
sys.path.insert(0, sys.argv[1] + "/crewai")

import json

from crewai import BaseLLM

import program


class Stub(BaseLLM):
    """Calls the tool, and answers with what it returned. Calls are texts, as of a model without functions."""

    def call(self, messages, tools=None, callbacks=None, available_functions=None, **options):
        observations = [text["content"] for text in messages if text["role"] == "assistant"]
        if not observations:
            return "Thought: I need the tool.\nAction: fetch\nAction Input: {}"
        observed = observations[-1].rsplit("Observation:", 1)[1].strip()
        return f"Thought: I now know the final answer\nFinal Answer: {observed}"


for output in program.crew(Stub(model="stub")).kickoff().tasks_output:
    said = json.loads(output.raw)
    print(said["agent"], said["token_of"], said["scope"], said["api_keys"])
