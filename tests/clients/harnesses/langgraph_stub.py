"""Runs the example of LangGraph with a stub of a model, which calls the tool twice in one message:
langgraph_stub.py DIRECTORY-OF-THE-EXAMPLES"""

import json
import sys

sys.path.insert(0, sys.argv[1] + "/langgraph")

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult

import program


class Stub(BaseChatModel):
    """Calls the tool, and answers with what it returned."""

    @property
    def _llm_type(self):
        return "stub"

    def bind_tools(self, tools, **options):
        return self

    def _generate(self, messages, stop=None, run_manager=None, **options):
        outputs = [message.content for message in messages if isinstance(message, ToolMessage)]
        if outputs:
            message = AIMessage(content=json.dumps(outputs))
        else:
            calls = [{"name": "fetch", "args": {}, "id": f"call_{number}"} for number in range(2)]
            message = AIMessage(content="", tool_calls=calls)
        return ChatResult(generations=[ChatGeneration(message=message)])


answer = program.graph(Stub()).invoke({"messages": [("user", "Fetch.")]})["messages"][-1].content
for text in json.loads(answer):
    said = json.loads(text)
    print(said["agent"], said["token_of"], said["scope"], said["api_keys"])
