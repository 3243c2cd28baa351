# Shows what it sees of directories and files, and of events that watch them: a line for each that is new.
# Arguments: NAME=DIRECTORY or NAME=FILE; it ends when a directory has a file `end`.
import ctypes, os, select, struct, sys, time

libc = ctypes.CDLL(None, use_errno=True)
ATTRIB, MODIFY, MOVED_TO, CREATE, DELETE, GONE, IGNORED = 4, 2, 0x80, 0x100, 0x200, 0x400, 0x8000
MASK = ATTRIB | MODIFY | 0x40 | MOVED_TO | CREATE | DELETE | GONE
places = dict(argument.split("=", 1) for argument in sys.argv[1:])
# One for each place: with runc two places may be the same directory.
inotify = {name: libc.inotify_init1(os.O_NONBLOCK) for name in places}
watches = {}
seen = {}


def say(line):
    print(line, flush=True)


def watch(name, path, kind):
    number = libc.inotify_add_watch(inotify[name], path.encode(), MASK)
    if number >= 0:
        watches[name, number] = path, kind


def state(path):
    """What a path leads to, by lstat and open, in a word."""
    try:
        if os.path.islink(path):
            return "link:" + os.readlink(path)
        if os.path.isdir(path):
            return "directory:" + ",".join(sorted(os.listdir(path)))
        with open(path) as file:
            text = file.read()
        return f"{text.strip()}:{os.stat(path).st_size}"
    except OSError as error:
        return os.strerror(error.errno)


def look(name, path):
    now = state(path)
    if seen.get((name, path)) != now:
        seen[name, path] = now
        say(f"{name} {os.path.relpath(path, places[name])} {now}")


def events(name):
    try:
        data = os.read(inotify[name], 1 << 16)
    except BlockingIOError:
        return
    woken = set()
    while data:
        number, mask, _, length = struct.unpack("iIII", data[:16])
        data = data[16 + length:]
        path, kind = watches.get((name, number), ("?", "?"))
        if mask & IGNORED:
            watches.pop((name, number), None)
            watch(name, path, kind)
        woken.add(f"{name} {kind} woken")
    for line in sorted(woken):
        say(line)


NAMES = ["file", "link", "gone", "new", "dir", "dir/in/it"]
for name, place in places.items():
    watch(name, place, "top")
    if os.path.isdir(place):
        watch(name, place + "/file", "file")
for name, place in places.items():
    for path in [place] if not os.path.isdir(place) else [f"{place}/{entry}" for entry in NAMES]:
        look(name, path)
say("ready")
while not any(os.path.exists(place + "/end") for place in places.values()):
    select.select(list(inotify.values()), [], [], 0.02)
    for name in places:
        events(name)
    for name, place in places.items():
        for path in [place] if not os.path.isdir(place) else [f"{place}/{entry}" for entry in NAMES]:
            look(name, path)
