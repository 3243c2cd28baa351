"""The one exception that ends hack/box with a plain message, and running commands so that it says what failed."""

import subprocess


class BoxError(Exception):
    """Something the user can read and act on; printed without a traceback."""


def run(*command, log=None, **options):
    """Runs a command that must succeed; its output goes to `log` (a path), if given, whose end is then in the error."""
    words = [str(word) for word in command]
    try:
        if log is None:
            return subprocess.run(words, check=True, **options)
        with open(log, "ab") as out:
            return subprocess.run(words, check=True, stdout=out, stderr=subprocess.STDOUT, **options)
    except FileNotFoundError as error:
        raise BoxError(f"{words[0]}: {error.strerror}; `hack/deps` installs what hack/box needs") from error
    except subprocess.CalledProcessError as error:
        message = f"`{' '.join(words)}` ended with status {error.returncode}"
        if log is not None:
            message += f"; its last lines, of {log}:\n{tail(log)}"
        raise BoxError(message) from error


def output(*command, **options):
    """What a command that must succeed prints."""
    return run(*command, stdout=subprocess.PIPE, text=True, **options).stdout


def tail(path, lines=15):
    """The last lines of a file, for an error message; empty when there is no such file."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return "".join(file.readlines()[-lines:]).rstrip()
    except FileNotFoundError:
        return ""
