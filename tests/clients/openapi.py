"""Validates responses with jsonschema: openapi.py DOCUMENT. Standard input is a JSON array of responses, each with
method, path (as in the document), status and body. Prints what is wrong; exit 1 if anything is."""

import json
import sys

import yaml
from jsonschema import Draft202012Validator, FormatChecker
from openapi_spec_validator import validate
from referencing import Registry
from referencing.jsonschema import DRAFT202012

with open(sys.argv[1]) as stream:
    document = yaml.safe_load(stream)
validate(document)
registry = Registry().with_resource("urn:openapi", DRAFT202012.create_resource(document))


def schema_of(response):
    """Where the document has the schema of the response's body."""
    operation = ["paths", response["path"], response["method"].lower(), "responses", str(response["status"])]
    found = document
    for key in operation:
        found = found[key]
    if "$ref" in found:
        return found["$ref"] + "/content/application~1json/schema"
    keys = operation + ["content", "application/json", "schema"]
    return "#/" + "/".join(key.replace("~", "~0").replace("/", "~1") for key in keys)


faults = []
for response in json.load(sys.stdin):
    name = f"{response['method']} {response['path']} {response['status']}"
    try:
        schema = {"$ref": "urn:openapi" + schema_of(response)}
    except KeyError as missing:
        faults.append(f"{name}: the document has no {missing}")
        continue
    validator = Draft202012Validator(schema, registry=registry, format_checker=FormatChecker(["date-time"]))
    faults += [f"{name}: {fault.json_path}: {fault.message}" for fault in validator.iter_errors(response["body"])]
sys.exit("\n".join(faults) or None)
