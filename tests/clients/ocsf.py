"""Validates events, one a line on standard input, against the JSON schema of OCSF that a package has for each class.

Usage: ocsf.py VERSION. Prints the classes of the events, with how many there are of each."""

import collections
import json
import sys

import jsonschema
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

schema = OcsfJsonSchemaEmbedded(get_ocsf_schema(version=sys.argv[1]))
validators = {}


def validator_of(event):
    key = (event["class_uid"], tuple(event["metadata"].get("profiles", [])))
    if key not in validators:
        name = schema.lookup_class_name_from_uid(key[0])
        text = json.loads(json.dumps(schema.get_class_schema(name, profiles=list(key[1]))))
        validators[key] = name, jsonschema.Draft202012Validator(text)
    return validators[key]


counts = collections.Counter()
for number, line in enumerate(sys.stdin, 1):
    event = json.loads(line)
    name, validator = validator_of(event)
    errors = [f"{'/'.join(map(str, e.absolute_path))}: {e.message[:300]}" for e in validator.iter_errors(event)]
    if errors:
        sys.exit(f"event {number} of class {name}, {event['metadata']['event_code']}: {errors}")
    if event["type_uid"] != event["class_uid"] * 100 + event["activity_id"]:
        sys.exit(f"event {number}: type_uid {event['type_uid']}")
    counts[name] += 1
print(json.dumps(counts))
