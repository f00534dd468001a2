"""Runs a program from a FUSE file system that this script serves: fuse_server.py DIRECTORY UID TREE PROGRAM ARGUMENT...

TREE is "low" for the FUSE file system itself, or "merged" for an overlay on it. "uncached" is "low" without cached
names and attributes, and the program runs in its root directory. Once the file DIRECTORY/armed exists, the server
answers no OPEN any more, or nothing at all if the file has the text "all", and appends the name of each request to
DIRECTORY/requests. Run it in a mount namespace of its own (unshare --mount, or unshare --user --map-root-user --mount).
"""

import errno
import os
import select
import stat
import struct
import subprocess
import sys

LOOKUP, GETATTR, OPEN, READ, STATFS, INIT, OPENDIR, READDIR = 1, 3, 14, 15, 17, 26, 27, 28
RELEASE, FLUSH, RELEASEDIR, ACCESS = 18, 25, 29, 34
UNANSWERED = (2, 36, 42)  # FORGET, INTERRUPT, BATCH_FORGET
ROOT, FILE = 1, 2
VALID = 0 if sys.argv[3] == "uncached" else 1_000_000  # seconds for which the kernel may cache names and attributes


def attributes(node, size):
    mode = stat.S_IFDIR | 0o755 if node == ROOT else stat.S_IFREG | 0o755
    length = 0 if node == ROOT else size
    return struct.pack("<6Q10I", node, length, (length + 511) // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def answer(opcode, node, body, name, content):
    if opcode == INIT:
        return struct.pack("<4I2HII2H8I", 7, 31, 131072, 0, 16, 12, 65536, 1, 0, 0, *[0] * 8)
    if opcode == LOOKUP:
        if body.rstrip(b"\0") != name:
            return -errno.ENOENT
        return struct.pack("<4Q2I", FILE, 0, VALID, VALID, 0, 0) + attributes(FILE, len(content))
    if opcode == GETATTR:
        return struct.pack("<Q2I", VALID, 0, 0) + attributes(node, len(content))
    if opcode in (OPEN, OPENDIR):
        keep_cache = 2
        return struct.pack("<Q2I", 1, keep_cache if opcode == OPEN else 0, 0)
    if opcode == READ:
        _, offset, size = struct.unpack_from("<QQI", body)
        return content[offset : offset + size]
    if opcode == STATFS:
        return struct.pack("<5Q4I6I", 0, 0, 0, 0, 0, 4096, 255, 4096, 0, *[0] * 6)
    if opcode in (READDIR, RELEASE, FLUSH, RELEASEDIR, ACCESS):
        return b""
    return -errno.ENOSYS


def serve(fuse, directory, name, content, parent):
    while os.getppid() == parent:
        if not select.select([fuse], [], [], 0.2)[0]:
            continue
        try:
            request = os.read(fuse, 1 << 20)
        except OSError:
            return  # The file system is unmounted.
        _, opcode, unique, node = struct.unpack_from("<IIQQ", request)
        if os.path.exists(f"{directory}/armed"):
            with open(f"{directory}/requests", "a") as log:
                log.write("OPEN\n" if opcode == OPEN else f"{opcode}\n")
            with open(f"{directory}/armed") as armed:
                answers_nothing = armed.read() == "all"
            if opcode == OPEN or answers_nothing:
                continue
        if opcode in UNANSWERED:
            continue
        result = answer(opcode, node, request[40:], name, content)
        error, data = (result, b"") if isinstance(result, int) else (0, result)
        try:
            os.write(fuse, struct.pack("<IiQ", 16 + len(data), error, unique) + data)
        except OSError:
            pass  # The request was interrupted.


def main():
    directory, uid, tree, program, *arguments = sys.argv[1:]
    with open(program, "rb") as file:
        content = file.read()
    name = os.path.basename(program)
    for sub in ("low", "empty", "merged"):
        os.makedirs(f"{directory}/{sub}", exist_ok=True)
    fuse = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0" + (",allow_other" if tree == "uncached" else "")
    mount = ["mount", "-i", "-t", "fuse", "-o", options, "fuse", f"{directory}/low"]
    subprocess.run(mount, pass_fds=[fuse], check=True)
    parent = os.getpid()
    if os.fork() == 0:
        for standard in (0, 1):
            os.close(standard)
        serve(fuse, directory, name.encode(), content, parent)
        os._exit(0)
    os.close(fuse)
    options = f"lowerdir={directory}/empty:{directory}/low"
    mount = ["mount", "-i", "-t", "overlay", "-o", options, "overlay", f"{directory}/merged"]
    subprocess.run(mount, check=True)
    if int(uid) != os.getuid():
        os.setgroups([])
        os.setresgid(int(uid), int(uid), int(uid))
        os.setresuid(int(uid), int(uid), int(uid))
    path = f"{directory}/{tree}/{name}"
    if tree == "uncached":
        path = f"{directory}/low/{name}"
        os.chdir(f"{directory}/low")
        # What the program executes is in memory then.
        with open(path, "rb") as file:
            file.read()
    os.execv(path, [path, *arguments])


main()
