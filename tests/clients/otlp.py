"""Parses requests of OTLP in JSON, one a line on standard input, by the protocol's own definition in protobuf.

Prints for each log record its event, trace id and record number."""

import base64
import json
import sys

from google.protobuf import json_format
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

for line in sys.stdin:
    request = json.loads(line)
    # OTLP writes ids in hexadecimal, where JSON of protobuf has base64 for bytes.
    for resource in request["resourceLogs"]:
        for scope in resource["scopeLogs"]:
            for record in scope["logRecords"]:
                for name in ("traceId", "spanId"):
                    if name in record:
                        record[name] = base64.b64encode(bytes.fromhex(record[name])).decode()
    parsed = json_format.ParseDict(request, ExportLogsServiceRequest(), ignore_unknown_fields=False)
    for resource in parsed.resource_logs:
        assert any(a.key == "service.name" for a in resource.resource.attributes)
        for scope in resource.scope_logs:
            for record in scope.log_records:
                assert record.time_unix_nano > 0 and 1 <= record.severity_number <= 24
                attributes = {a.key: a.value for a in record.attributes}
                assert len(attributes) == len(record.attributes), "an attribute has two values"
                assert len(record.trace_id) in (0, 16) and len(record.span_id) in (0, 8)
                original = json.loads(attributes["log.record.original"].string_value)
                seq = attributes["hostbadge.seq"].int_value
                assert original["seq"] == seq
                print(json.dumps({"event": record.event_name, "trace": record.trace_id.hex(), "seq": seq}))
