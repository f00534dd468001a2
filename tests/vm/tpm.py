"""The machine's TPM: swtpm, and a relay between it and QEMU that can delay, forge and drop responses.

Stopping swtpm would stall the whole machine, not only its TPM: QEMU blocks on the control channel. The relay delays
TPM commands only. QEMU passes swtpm one end of a socket for commands through the control channel; the relay keeps
that end and passes swtpm a socket of its own, so that swtpm can be restarted under a running machine.
"""

import os
import selectors
import shutil
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path

# The kernel kills the child when this process exits.
TIED = ["setpriv", "--pdeathsig", "KILL"]

CMD_INIT = struct.pack(">II", 2, 0)
CMD_SET_DATAFD = struct.pack(">I", 0x10)
STARTUP_CLEAR = bytes.fromhex("8001 0000000c 00000144 0000")
TPM_RC_FAILURE = 0x101


def failure(code: int) -> bytes:
    """A response with a response code only."""
    return struct.pack(">HII", 0x8001, 10, code)


class Tpm:
    def __init__(self, dir: Path):
        self.dir = dir
        self.path = dir / "tpm.sock"  # where QEMU finds it
        self.generation = 0
        self.stalled = False
        self.answer = None  # the response code for every command, if any
        self.owed = False  # swtpm executes a command
        self.lock = threading.Lock()
        self.qemu = self.commands = self.swtpm = self.answers = None
        self.wake, self.woken = socket.socketpair()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.path))
        self.listener.listen()
        self.make()
        self.start()
        threading.Thread(target=self.relay, daemon=True).start()

    def make(self):
        """Creates a new TPM with EK certificates."""
        self.generation += 1
        self.state = self.dir / f"tpm-{self.generation}"
        self.state.mkdir()
        ca = self.state / "ca"
        files = {
            "setup.conf": f"create_certs_tool = {shutil.which('swtpm_localca')}\n"
            "create_certs_tool_config = ca.conf\ncreate_certs_tool_options = ca.options\n",
            "ca.conf": f"statedir = {ca}\nsigningkey = {ca}/key.pem\nissuercert = {ca}/cert.pem\ncertserial = {ca}/serial\n",
            "ca.options": "--platform-manufacturer tests\n--platform-version 1\n--platform-model vm\n",
        }
        ca.mkdir()
        for name, text in files.items():
            (self.state / name).write_text(text)
        subprocess.run(
            ["swtpm_setup", "--tpm2", "--tpmstate", self.state, "--config", "setup.conf", "--create-ek-cert",
             "--pcr-banks", "sha256", "--logfile", "setup.log"],
            cwd=self.state, check=True, timeout=120, stdout=subprocess.DEVNULL)

    def start(self):
        path = self.dir / f"swtpm-{self.generation}.sock"
        path.unlink(missing_ok=True)
        self.process = subprocess.Popen(
            [*TIED, "swtpm", "socket", "--tpm2", "--tpmstate", f"dir={self.state}", "--ctrl", f"type=unixio,path={path}",
             "--log", f"file={self.state}/log"], stdin=subprocess.DEVNULL)
        self.swtpm = socket.socket(socket.AF_UNIX)
        end = time.monotonic() + 10
        while True:
            try:
                return self.swtpm.connect(str(path))
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)

    def stop(self):
        """Kills swtpm, as a loss of power does."""
        self.process.kill()
        self.process.wait()
        for end in (self.swtpm, self.answers):
            if end:
                end.close()
        self.swtpm = self.answers = None

    # Actions of scenarios.

    def stall(self):
        """Delays commands and responses until resume."""
        self.set(stalled=True)

    def answering(self, code: str):
        """Answers each command with this TPM_RC instead of the TPM, until resume."""
        self.set(answer=int(code, 0))

    def resume(self):
        self.set(stalled=False, answer=None)

    def set(self, **values):
        with self.lock:
            self.__dict__.update(values)
        self.wake.send(b".")

    def restart(self):
        """Restarts the TPM under the running machine: sessions and loaded objects are lost."""
        with self.lock:
            self.stop()
            self.start()
            if self.commands:
                # QEMU would wait for the response forever.
                if self.owed:
                    self.commands.sendall(failure(TPM_RC_FAILURE))
                    self.owed = False
                self.connect(CMD_SET_DATAFD)
                for channel, message in ((self.swtpm, CMD_INIT), (self.answers, STARTUP_CLEAR)):
                    channel.sendall(message)
                    channel.recv(4096)
        self.wake.send(b".")

    def power_cut(self, replace: bool):
        """Restarts the TPM of a machine that is off, as another one if `replace`."""
        with self.lock:
            self.stop()
            for end in (self.qemu, self.commands):
                if end:
                    end.close()
            self.qemu = self.commands = None
            self.stalled, self.answer, self.owed = False, None, False
            if replace:
                self.make()
            self.start()
        self.wake.send(b".")

    # The relay.

    def connect(self, message: bytes):
        """Passes swtpm a socket of the relay for commands."""
        if self.answers:
            self.answers.close()
        self.answers, theirs = socket.socketpair()
        socket.send_fds(self.swtpm, [message], [theirs.fileno()])
        theirs.close()
        if message is CMD_SET_DATAFD:
            self.swtpm.recv(4096)

    def relay(self):
        while True:
            with selectors.DefaultSelector() as selector:
                with self.lock:
                    ways = {self.listener: self.accept, self.woken: lambda: self.woken.recv(4096)}
                    ways |= {self.qemu: self.control, self.swtpm: self.controlled}
                    if not self.stalled:
                        ways |= {self.commands: self.command, self.answers: self.answered}
                    ways = {end: way for end, way in ways.items() if end and end.fileno() >= 0}
                    if not ways:
                        return
                    for end, way in ways.items():
                        selector.register(end, selectors.EVENT_READ, way)
                ready = [key for key, _ in selector.select()]
            for key in ready:
                with self.lock:
                    # The socket may have been closed or stalled since select.
                    if key.fileobj.fileno() == key.fd and not (self.stalled and key.fileobj in (self.commands, self.answers)):
                        key.data()

    def accept(self):
        self.qemu, _ = self.listener.accept()

    def control(self):
        message, fds, _, _ = socket.recv_fds(self.qemu, 65536, 1)
        if fds:
            if self.commands:
                self.commands.close()
            self.commands = socket.socket(fileno=fds[0])
            self.connect(message)
        elif message:
            self.swtpm.sendall(message)
        else:
            self.qemu.close()
            self.qemu = None

    def controlled(self):
        self.pass_on(self.swtpm, "swtpm", self.qemu)

    def command(self):
        if self.answer is None:
            self.owed = True
            self.pass_on(self.commands, "commands", self.answers)
        elif self.commands.recv(65536):
            self.commands.sendall(failure(self.answer))
        else:
            self.commands.close()
            self.commands = None

    def answered(self):
        self.owed = False
        self.pass_on(self.answers, "answers", self.commands)

    def pass_on(self, source, name: str, target):
        try:
            message = source.recv(65536)
        except OSError:
            message = b""
        if not message:
            source.close()
            setattr(self, name, None)
        elif target:
            try:
                target.sendall(message)
            except OSError:
                pass  # The relay notices the closed end when it reads.
