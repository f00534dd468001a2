"""Runs the example of the OpenAI Agents SDK with a stub of a model: openai_agents.py DIRECTORY-OF-THE-EXAMPLES"""

import asyncio
import json
import sys

sys.path.insert(0, sys.argv[1] + "/openai-agents")

from agents import set_tracing_disabled
from agents.items import ModelResponse
from agents.models.interface import Model
from agents.usage import Usage
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseOutputText

import program

set_tracing_disabled(True)
CALLS = ["fetch", "transfer_to_reader", "whoami"]


class Stub(Model):
    """Calls the tools in order, and answers with what they returned."""

    async def get_response(self, system_instructions, input, *rest, **options):
        outputs = [item["output"] for item in input if item.get("type") == "function_call_output"]
        if len(outputs) < len(CALLS):
            name = CALLS[len(outputs)]
            item = ResponseFunctionToolCall(
                type="function_call", call_id=f"call_{len(outputs)}", name=name, arguments="{}"
            )
        else:
            text = json.dumps([output if isinstance(output, str) else output[0]["text"] for output in outputs])
            content = ResponseOutputText(type="output_text", text=text, annotations=[])
            item = ResponseOutputMessage(
                id="msg", type="message", role="assistant", status="completed", content=[content]
            )
        return ModelResponse(output=[item], usage=Usage(), response_id=None)

    def stream_response(self, *rest, **options):
        raise NotImplementedError


answer = json.loads(asyncio.run(program.main(Stub())))
for text in (answer[0], answer[2]):
    said = json.loads(text)
    said = json.loads(said["text"]) if "text" in said else said
    print(said["agent"], said["token_of"], said["scope"], said["api_keys"])
