"""Reaching into a running box: commands and files, over one ssh connection that all share."""

import contextlib
import os
import shlex
import subprocess

from .errors import BoxError, run

# All below the box's folder, where every ssh runs: a socket's full path may be too long for a socket.
CONTROL = "ssh.socket"
KEY = "id_box"
KNOWN_HOSTS = "known_hosts"


def _options(state):
    settings = {
        "Port": state["port"], "User": "root", "HostName": "127.0.0.1", "HostKeyAlias": "box",
        "IdentityFile": KEY, "IdentitiesOnly": "yes", "UserKnownHostsFile": KNOWN_HOSTS,
        "StrictHostKeyChecking": "yes", "ControlPath": CONTROL, "LogLevel": "ERROR",
        "Ciphers": "aes128-gcm@openssh.com", "ConnectTimeout": 60,
    }
    words = ["-F", "none"]
    for name, value in settings.items():
        words += ["-o", f"{name}={value}"]
    return words


def connect(box, state):
    """Opens the shared connection; it stays until `disconnect` or the box's end."""
    run("ssh", *_options(state), "-o", "ControlMaster=yes", "-o", "ControlPersist=yes", "-N", "-f", "box",
        cwd=box.folder, log=box.folder / "ssh.log", stdin=subprocess.DEVNULL)


def forward(box, *directions):
    """Forwards ports over the shared connection, until it closes; directions are ssh's: ("-L" or "-R", "PORT:HOST:PORT").
    """
    for way, ports in directions:
        run("ssh", *_options(box.state()), "-O", "forward", way, ports, "box", cwd=box.folder,
            log=box.folder / "ssh.log", stdin=subprocess.DEVNULL)


def disconnect(box):
    """Closes the shared connection, if it is open."""
    with contextlib.suppress(OSError):
        subprocess.run(["ssh", "-F", "none", "-o", f"ControlPath={CONTROL}", "-O", "exit", "box"], cwd=box.folder,
                       check=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def exec_command(box, command, tty):
    """The command, to be run in the box's folder, that runs a command in the box.

    The box's shell stays the parent, so a command that dies of a signal ends with 128 and its number; what the shell
    itself would say to that is dropped.
    """
    script = "exec 3>&2 2>/dev/null; " + " ".join(shlex.quote(word) for word in command) + " 2>&3 3>&-; exit $?"
    return ["ssh", *_options(box.state()), "-tt" if tty else "-T", "box", script]


def execute(box, command, tty):
    """Becomes that command."""
    words = exec_command(box, command, tty)
    os.chdir(box.folder)
    os.execvp(words[0], words)


def push(box, source, destination):
    """Copies a file or directory into the box."""
    if not source.exists():
        raise BoxError(f"push: no {source} on this machine")
    _copy(box, str(source.resolve()), f"box:{destination}")


def pull(box, source, destination):
    """Copies a file or directory out of the box."""
    _copy(box, f"box:{source}", str(destination.absolute()))


def _copy(box, source, destination):
    words = ["scp", "-q", "-r", "-p", *_options(box.state()), source, destination]
    done = subprocess.run(words, cwd=box.folder, check=False)
    if done.returncode != 0:
        raise BoxError(f"copying {source} to {destination} failed; scp says why above")
