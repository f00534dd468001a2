"""Holds connections of one kind open, as a stranger: flood.py SOCKET KIND CONNECTIONS CALLS.

Prints a line when everything was sent, and ends when its input does."""

import socket
import struct
import sys

path, kind, connections, calls = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
DATA, HEADERS, SETTINGS, CONTINUATION = 0, 1, 4, 9
END_STREAM, END_HEADERS = 1, 4
JWT = b"/SpiffeWorkloadAPI/FetchJWTSVID"
X509 = b"/SpiffeWorkloadAPI/FetchX509SVID"
WATCH = b"/grpc.health.v1.Health/Watch"
CHECK = b"/grpc.health.v1.Health/Check"
REFLECTION = b"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
OLDER_REFLECTION = b"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


def frame(number, flags, stream, payload):
    return struct.pack(">I", len(payload))[1:] + bytes([number, flags]) + struct.pack(">I", stream) + payload


def length(number):
    if number < 127:
        return bytes([number])
    number, out = number - 127, b"\x7f"
    while number >= 128:
        number, out = number >> 7, out + bytes([number & 127 | 128])
    return out + bytes([number])


def field(name, value):
    return b"\0" + length(len(name)) + name + length(len(value)) + value


def head(method):
    pairs = {b":method": b"POST", b":scheme": b"http", b":path": method, b":authority": b"localhost"}
    pairs |= {b"content-type": b"application/grpc", b"te": b"trailers", b"workload.spiffe.io": b"true"}
    return b"".join(field(name, value) for name, value in pairs.items())


def message(content):
    return b"\0" + struct.pack(">I", len(content)) + content


def each(make):
    return b"".join(make(1 + 2 * number) for number in range(calls))


def hello(window=65535):
    return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, struct.pack(">HI", 4, window))


MANY_FIELDS = b"".join(field(b"%03x" % number, b"") for number in range(430))
QUESTION = message(b"\x22\x11SpiffeWorkloadAPI")
KINDS = {
    # Nothing but the preface.
    "idle": lambda: hello(),
    # A header block that never ends.
    "heads": lambda: hello()
    + frame(HEADERS, 0, 1, head(JWT) + field(b"a", b"z" * 12000))
    + frame(CONTINUATION, 0, 1, field(b"b", b"z" * 12000)),
    # Messages of 60 KB that never arrive completely, as far as the windows allow.
    "bodies": lambda: hello()
    + each(lambda s: frame(HEADERS, END_HEADERS, s, head(JWT)))
    + each(lambda s: frame(DATA, 0, s, b"\0" + struct.pack(">I", 60000) + b"z" * 600)),
    # The same in pieces of a byte, to a public method.
    "pieces": lambda: hello()
    + each(lambda s: frame(HEADERS, END_HEADERS, s, head(CHECK)) + frame(DATA, 0, s, b"\0\0\0\3\0"))
    + b"".join(each(lambda s: frame(DATA, 0, s, b"z")) for _ in range(5)),
    # Lists of many small fields.
    "fields": lambda: hello() + each(lambda s: frame(HEADERS, END_HEADERS, s, head(X509) + MANY_FIELDS)),
    # Streams of the public services.
    "watch": lambda: hello()
    + each(lambda s: frame(HEADERS, END_HEADERS, s, head(WATCH)) + frame(DATA, END_STREAM, s, message(b""))),
    "reflection": lambda: hello()
    + each(lambda s: frame(HEADERS, END_HEADERS, s, head(REFLECTION)) + frame(DATA, 0, s, QUESTION)),
    # Answers that the client does not take, of which the first byte has room.
    "starved": lambda: hello(1)
    + each(lambda s: frame(HEADERS, END_HEADERS, s, head(OLDER_REFLECTION)) + frame(DATA, 0, s, QUESTION * 20)),
}

held = []
for _ in range(connections):
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(10)
    try:
        connection.connect(path)
        connection.sendall(KINDS[kind]())
        held.append(connection)
    except OSError:
        # The daemon closed it, as it may.
        pass
print("sent", flush=True)
sys.stdin.read()
