"""Programs that run beside the test on this machine, end with it, and leave a log each."""

import signal
import socket
import subprocess

from boxlib.errors import BoxError, tail

PATIENCE = 10  # seconds between SIGTERM and SIGKILL


class Processes:
    """Started in order, ended in the opposite one."""

    def __init__(self, logs):
        self.logs, self._running = logs, []
        logs.mkdir()

    def start(self, program, *arguments, **flags):
        """Starts a program; a flag `a_b=c` becomes `--a-b=c`. It dies with this process, however that ends."""
        words = ["setpriv", "--pdeathsig", "KILL", str(program), *map(str, arguments),
                 *(f"--{name.replace('_', '-')}={value}" for name, value in flags.items())]
        with open(self.logs / f"{program.name}.log", "ab") as log:
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.logs)
        self._running.append((program.name, process))

    def check(self):
        """An error when one has ended by itself."""
        for name, process in self._running:
            if process.poll() is not None:
                raise BoxError(f"{name} ended with status {process.returncode}; its last lines, of"
                               f" {self.logs / name}.log:\n{tail(self.logs / f'{name}.log')}")

    def end(self):
        """Ends all of them."""
        while self._running:
            _, process = self._running.pop()
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def free_ports(count):
    """Ports of 127.0.0.1 that nobody has, all different."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()
