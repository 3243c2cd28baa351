"""Waiting for something to become true."""

import time

from boxlib.errors import BoxError

INTERVAL = 0.5


def until(what, seconds, check):
    """Asks `check` again until it answers something true, which is returned; an error after so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        if answer := check():
            return answer
        if time.monotonic() > deadline:
            raise BoxError(f"no {what} in {seconds} s")
        time.sleep(INTERVAL)
