"""A graph of LangGraph whose tool runs as a sub-agent.

Nodes and subgraphs are functions of this process, which is one agent for hostbadge. Only what they start is
a sub-agent.
"""

import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(EXAMPLES))

from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

import sub_agent  # examples/harnesses/sub_agent.py


@tool
def fetch() -> str:
    """Fetches documents."""
    return sub_agent.run("fetch", sys.executable, str(EXAMPLES / "tool.py"))


def graph(model):
    """A model with the tool. `model` is a chat model of LangChain."""
    with_tools = model.bind_tools([fetch])
    builder = StateGraph(MessagesState)
    builder.add_node("model", lambda state: {"messages": [with_tools.invoke(state["messages"])]})
    # Calls of one message run at the same time, each as a sub-agent of its own.
    builder.add_node("tools", ToolNode([fetch]))
    builder.add_edge(START, "model")
    builder.add_conditional_edges("model", tools_condition)
    builder.add_edge("tools", "model")
    return builder.compile()
