"""Lists services, and methods of the Workload API, by gRPC reflection: reflection.py SOCKET v1|v1alpha."""

import json
import sys

import grpc
from google.protobuf.descriptor_pool import DescriptorPool

socket, version = sys.argv[1:]
channel = grpc.insecure_channel(f"unix:{socket}")
if version == "v1alpha":
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

    database = ProtoReflectionDescriptorDatabase(channel)
    services = list(database.get_services())
    methods = [m.name for m in DescriptorPool(database).FindServiceByName("SpiffeWorkloadAPI").methods]
else:
    # The library has the older name only; the messages are the same.
    from grpc_reflection.v1alpha import reflection_pb2 as pb

    call = channel.stream_stream(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        request_serializer=pb.ServerReflectionRequest.SerializeToString,
        response_deserializer=pb.ServerReflectionResponse.FromString,
    )
    asked = [
        pb.ServerReflectionRequest(list_services=""),
        pb.ServerReflectionRequest(file_containing_symbol="SpiffeWorkloadAPI"),
    ]
    listed, described = call(iter(asked), timeout=30)
    services = [service.name for service in listed.list_services_response.service]
    from google.protobuf.descriptor_pb2 import FileDescriptorProto

    file = FileDescriptorProto.FromString(described.file_descriptor_response.file_descriptor_proto[0])
    methods = [m.name for m in file.service[0].method]
print(json.dumps({"services": services, "methods": methods}))
