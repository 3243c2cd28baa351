"""What files do, one fact a line, in the directories that are named: the same under every runtime, or the runtimes differ."""
import ctypes, errno, fcntl, mmap, os, shutil, signal, socket, stat, struct, subprocess, sys, threading, time

LIBC = ctypes.CDLL(None, use_errno=True)
TESTS = []


def test(function):
    TESTS.append(function)
    return function


LIMIT = 60  # seconds for each


def too_long(*_):
    raise TimeoutError(errno.ETIME, "it hangs")


signal.signal(signal.SIGALRM, too_long)


def write(path, data=b"x", flags=0, mode=0o644):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | flags, mode)
    try:
        return os.write(fd, data)
    finally:
        os.close(fd)


def read(path):
    with open(path, "rb") as file:
        return file.read()


def said(action):
    """What an action gives, or the name of its error."""
    try:
        return action()
    except OSError as error:
        return errno.errorcode.get(error.errno, error.errno)


def mode(path):
    return oct(os.lstat(path).st_mode & 0o7777)


def in_child(action):
    """What an action prints in another process."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        os.write(writer, repr(said(action)).encode())
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        text = file.read().decode()
    os.waitpid(pid, 0)
    return text
