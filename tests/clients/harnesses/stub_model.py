"""A stub of a model for Claude Code (Messages API) and Codex (Responses API): stub_model.py SCRIPT

It prints its port. SCRIPT is JSON: for each text, the tool calls that are made where the system prompt or the first
message has that text, in order. After them, the model answers with what the tools returned.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SCRIPT = json.loads(sys.argv[1])
LOG = open(sys.argv[2], "a") if len(sys.argv) > 2 else None


def texts(value):
    """All texts in what a tool returned."""
    if isinstance(value, str):
        return value
    return "\n".join(block.get("text", "") for block in value or [])


def step(prompt, results):
    """The next tool call as (name, arguments), or None and the answer."""
    calls = next((calls for text, calls in SCRIPT.items() if text in prompt), [])
    if len(results) < len(calls):
        return calls[len(results)], None
    return None, "\n".join(results)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"

    def do_HEAD(self):
        self.send_response(200)
        self.end_headers()

    def do_GET(self):
        self.reply("application/json", json.dumps({"data": [], "models": []}))

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if LOG:
            print(json.dumps({"path": self.path, "request": request}), file=LOG, flush=True)
        if "count_tokens" in self.path:
            return self.reply("application/json", json.dumps({"input_tokens": 1}))
        events = messages(request) if "messages" in self.path else responses(request)
        self.reply("text/event-stream", "".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n" for e in events))

    def reply(self, kind, text):
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def messages(request):
    """The events of an answer in the Messages API."""
    results = []
    for message in request["messages"]:
        blocks = message["content"] if isinstance(message["content"], list) else []
        results += [texts(block["content"]) for block in blocks if block["type"] == "tool_result"]
    prompt = texts(request.get("system", "")) + texts(request["messages"][0]["content"])
    call, answer = step(prompt, results)
    start = {"id": "msg_1", "type": "message", "role": "assistant", "model": request["model"], "content": [],
             "stop_reason": None, "stop_sequence": None, "usage": {"input_tokens": 1, "output_tokens": 1}}
    yield {"type": "message_start", "message": start}
    if call:
        name, arguments = call
        block = {"type": "tool_use", "id": f"toolu_{len(results)}", "name": name, "input": {}}
        delta = {"type": "input_json_delta", "partial_json": json.dumps(arguments)}
    else:
        block = {"type": "text", "text": ""}
        delta = {"type": "text_delta", "text": answer}
    yield {"type": "content_block_start", "index": 0, "content_block": block}
    yield {"type": "content_block_delta", "index": 0, "delta": delta}
    yield {"type": "content_block_stop", "index": 0}
    reason = {"stop_reason": "tool_use" if call else "end_turn", "stop_sequence": None}
    yield {"type": "message_delta", "delta": reason, "usage": {"output_tokens": 1}}
    yield {"type": "message_stop"}


def responses(request):
    """The events of an answer in the Responses API."""
    results = [texts(item["output"]) for item in request["input"] if item.get("type") == "function_call_output"]
    messages = [texts(item["content"]) for item in request["input"] if item.get("type") == "message"]
    call, answer = step(request.get("instructions", "") + "\n".join(messages), results)
    if call:
        name, arguments = call
        item = {"type": "function_call", "call_id": f"call_{len(results)}", "arguments": json.dumps(arguments)}
        item.update(zip(("namespace", "name"), name.split("/")) if "/" in name else {"name": name})
    else:
        item = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": answer}]}
    yield {"type": "response.created", "response": {"id": "resp_1"}}
    yield {"type": "response.output_item.done", "output_index": 0, "item": item}
    usage = {"input_tokens": 1, "input_tokens_details": None, "output_tokens": 1, "output_tokens_details": None,
             "total_tokens": 2}
    yield {"type": "response.completed", "response": {"id": "resp_1", "usage": usage}}


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
