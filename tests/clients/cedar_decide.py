"""Decides requests by cedarpy. Standard input has one JSON object a line: policies, entities and a request.
Standard output has one line for each: the decision, the deciding policies and those that cannot be evaluated, by
their index in the text."""

import json
import sys

import cedarpy


def index(policy_id):
    return int(policy_id.removeprefix("policy"))


for line in sys.stdin:
    question = json.loads(line)
    result = cedarpy.is_authorized(question["request"], question["policies"], question["entities"])
    # "error while evaluating policy `policy1`: …"; other errors concern the question.
    errors = sorted(index(str(error).split("`")[1]) for error in result.diagnostics.errors)
    print(json.dumps({
        "decision": result.decision.value,
        "reasons": sorted(index(reason) for reason in result.diagnostics.reasons),
        "errors": errors,
    }))
