"""A virtual machine with its disk, its TPM, and the connection to the scenario runner inside."""

import shutil
import socket
import subprocess
import time
from pathlib import Path

from tpm import TIED, Tpm

# mitigations=off: they are slow on an emulated processor, and not needed there.
COMMAND_LINE = "root=/dev/vda rw console=ttyS0 quiet panic=5 mitigations=off"


class Machine:
    def __init__(self, image: Path, payload: Path, dir: Path, accelerator: str):
        self.image, self.payload, self.dir, self.accelerator = image, payload, dir, accelerator
        self.console = dir / "console"
        self.has_tpm, self.new_tpm = True, False
        self.qemu = self.line = self.tpm = None
        self.pending = b""
        subprocess.run(
            ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", image / "disk", dir / "disk"],
            check=True, timeout=60)
        self.tpm = Tpm(dir)

    def start(self):
        line = self.dir / "line.sock"
        line.unlink(missing_ok=True)
        tpm = ["-chardev", f"socket,id=tpm,path={self.tpm.path}", "-tpmdev", "emulator,id=tpm0,chardev=tpm",
               "-device", "tpm-crb,tpmdev=tpm0"]
        self.qemu = subprocess.Popen(
            [*TIED, "qemu-system-x86_64", "-machine", "q35", "-accel", self.accelerator, "-cpu", "max", "-smp", "2",
             "-m", "1536", "-nodefaults", "-no-user-config", "-display", "none",
             "-kernel", self.image / "vmlinuz", "-initrd", self.image / "initrd", "-append", COMMAND_LINE,
             # Data that the guest has flushed survives a kill of QEMU in the page cache of this machine.
             "-drive", f"file={self.dir}/disk,if=virtio,format=qcow2,cache=unsafe",
             "-drive", f"file={self.payload},if=virtio,format=raw,readonly=on",
             "-chardev", f"file,id=console,path={self.console},append=on", "-serial", "chardev:console",
             "-device", "virtio-rng-pci", "-device", "virtio-serial-pci",
             "-chardev", f"socket,id=line,path={line},server=on,wait=off",
             "-device", "virtserialport,chardev=line,name=vm-tests",
             *(tpm if self.has_tpm else [])], stdin=subprocess.DEVNULL)
        self.line = socket.socket(socket.AF_UNIX)
        end = time.monotonic() + 20
        # The file exists before QEMU accepts connections.
        while self.line.connect_ex(str(line)) != 0:
            if time.monotonic() > end or self.qemu.poll() is not None:
                raise RuntimeError("QEMU does not start")
            time.sleep(0.05)
        self.pending = b""

    def read(self, deadline: float):
        """The next line from the guest; None if there is none in time, or the machine is gone."""
        while b"\n" not in self.pending:
            self.line.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                data = self.line.recv(65536)
            except TimeoutError:
                return None
            if not data:
                return None
            self.pending += data
        text, self.pending = self.pending.split(b"\n", 1)
        return text.decode(errors="replace")

    def reply(self, text: str):
        self.line.settimeout(10)
        self.line.sendall(f"{text}\n".encode())

    def act(self, action: str) -> str:
        """Executes an action that a scenario requested."""
        match action.split():
            case ["tpm-stall"]:
                self.tpm.stall()
            case ["tpm-answer", code]:
                self.tpm.answering(code)
            case ["tpm-resume"]:
                self.tpm.resume()
            case ["tpm-restart"]:
                self.tpm.restart()
            # These take effect at the next power cut, while the machine is off.
            case ["tpm-replace"]:
                self.new_tpm = True
            case ["tpm-remove"]:
                self.has_tpm = False
            case ["tpm-insert"]:
                self.has_tpm = True
            case _:
                return f"cannot {action}"
        return "done"

    def power_cut(self):
        self.end_qemu()
        self.tpm.power_cut(replace=self.new_tpm)
        self.new_tpm = False
        self.start()

    def end_qemu(self):
        if self.line:
            self.line.close()
        if self.qemu:
            self.qemu.kill()
            self.qemu.wait()

    def end(self):
        self.end_qemu()
        if self.tpm:
            self.tpm.stop()
        shutil.rmtree(self.dir, ignore_errors=True)
