"""A crew of CrewAI whose tool runs as a sub-agent.

The agents of a crew are objects in this process, which is one agent for hostbadge. Only what they start is a sub-agent.
"""

import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(EXAMPLES))

from crewai import Agent, Crew, Task
from crewai.tools import tool

import sub_agent  # examples/harnesses/sub_agent.py


def tool_of(name):
    """The tool for one agent of the crew, which runs as a sub-agent with the agent's name."""

    @tool("fetch")
    def fetch() -> str:
        """Fetches documents."""
        return sub_agent.run(name, sys.executable, str(EXAMPLES / "tool.py"))

    return fetch


def crew(model):
    """Two agents with a task each. `model` is an LLM of CrewAI."""
    agents, tasks = [], []
    for name in ["fetcher", "reviewer"]:
        agent = Agent(role=name, goal="Fetch documents.", backstory="None.", llm=model, tools=[tool_of(name)])
        agents.append(agent)
        tasks.append(Task(description="Fetch.", expected_output="What the tool returns.", agent=agent))
    return Crew(agents=agents, tasks=tasks)
