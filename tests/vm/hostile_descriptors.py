"""hostile_descriptors.py SOCKET SECONDS: sends descriptors whose last close waits for an hour.

Each connection sends a TCP socket with SO_LINGER and unsent data to SOCKET. Prints how many messages the kernel
took and refused.
"""

import array
import signal
import socket
import struct
import sys
import time

path, seconds = sys.argv[1], float(sys.argv[2])
listener = socket.create_server(("127.0.0.1", 0))
peers = []


def lingering():
    stream = socket.create_connection(listener.getsockname())
    peers.append(listener.accept()[0])
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3600))
    stream.setblocking(False)
    try:
        while True:
            stream.send(bytes(65536))
    except BlockingIOError:
        return stream


def send(target, sockets, flags=0):
    rights = array.array("i", [each.fileno() for each in sockets])
    target.sendmsg([b"G"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)], flags)


# Where the daemon has closed its reference already, the close here waits, until a signal interrupts it.
signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
taken = refused = 0
end = time.monotonic() + seconds
while time.monotonic() < end:
    for flags in (0, socket.MSG_OOB):
        with socket.socket(socket.AF_UNIX) as client, lingering() as stream:
            client.settimeout(5)
            try:
                client.connect(path)
                send(client, [stream], flags)
                taken += 1
            except PermissionError:
                refused += 1
            except OSError:
                pass
    del peers[:-200]
signal.setitimer(signal.ITIMER_REAL, 0)
print(f"taken {taken}, refused {refused}", flush=True)
