# What processes tell each other by files, and programs that use much of it.


@test
def special_files():
    os.mkfifo("fifo")
    threading.Thread(target=lambda: write("fifo", b"through")).start()
    through = read("fifo")
    server = socket.socket(socket.AF_UNIX)
    server.bind("socket")
    server.listen()
    client = socket.socket(socket.AF_UNIX)
    client.connect("socket")
    client.sendall(b"hello")
    heard = server.accept()[0].recv(9)
    datagram = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    datagram.bind("datagram")
    kinds = [stat.filemode(os.lstat(name).st_mode)[0] for name in ("fifo", "socket", "datagram")]
    os.rename("socket", "moved")
    other = socket.socket(socket.AF_UNIX)
    moved = said(lambda: other.connect("moved"))
    os.unlink("moved")
    return through, heard, kinds, moved, said(lambda: os.open("datagram", os.O_RDONLY))


def locked_elsewhere(lock, *requests):
    """What another process gets that asks for locks without waiting."""
    def ask():
        mine = os.open("file", os.O_RDWR)
        return [said(lambda: lock(mine, kind | fcntl.LOCK_NB, *where)) for kind, *where in requests]

    return in_child(ask)


@test
def record_locks():
    write("file", b"x" * 100)
    fd = os.open("file", os.O_RDWR)
    fcntl.lockf(fd, fcntl.LOCK_EX, 10, 0)
    requests = (fcntl.LOCK_EX, 10, 0), (fcntl.LOCK_EX, 10, 50)
    held = locked_elsewhere(fcntl.lockf, *requests)
    fcntl.lockf(fd, fcntl.LOCK_UN)
    return held, locked_elsewhere(fcntl.lockf, *requests)


@test
def file_locks():
    write("file")
    fd = os.open("file", os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_SH)
    requests = (fcntl.LOCK_SH,), (fcntl.LOCK_EX,)
    held = locked_elsewhere(fcntl.flock, *requests)
    os.close(fd)
    return held, locked_elsewhere(fcntl.flock, *requests)


@test
def lock_is_waited_for():
    write("file")
    fd = os.open("file", os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(fd)
        mine = os.open("file", os.O_RDWR)
        os.write(writer, b"w")
        fcntl.flock(mine, fcntl.LOCK_EX)
        os.write(writer, b"got")
        os._exit(0)
    os.read(reader, 1)
    os.set_blocking(reader, False)
    early = said(lambda: os.read(reader, 3))
    os.set_blocking(reader, True)
    os.close(fd)
    return early, os.read(reader, 3), os.waitpid(pid, 0)[1]


@test
def directory_notification():
    fd = os.open(".", os.O_RDONLY)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGIO])
    fcntl.fcntl(fd, fcntl.F_NOTIFY, fcntl.DN_CREATE)
    write("file")
    return signal.sigtimedwait([signal.SIGIO], LIMIT) is not None


@test
def notifications():
    notify = LIBC.inotify_init1(0)
    LIBC.inotify_add_watch(notify, b".", 0x100 | 0x200 | 0x2 | 0x40 | 0x80)
    write("file", b"x")
    os.rename("file", "other")
    os.unlink("other")
    masks, data = [], os.read(notify, 4096)
    while data:
        _, mask, _, length = struct.unpack_from("iIII", data)
        masks.append(mask)
        data = data[16 + length:]
    return masks


@test
def overlay_inside():
    for name in ("lower", "upper", "work", "merged"):
        os.mkdir(name)
    write("lower/file", b"low")
    options = "lowerdir=lower,upperdir=upper,workdir=work"
    done = subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, "merged"], stderr=subprocess.DEVNULL, check=False)
    if done.returncode != 0:
        return "refused"
    write("merged/file", b"up!")
    os.mkdir("merged/dir")
    result = read("merged/file"), read("lower/file"), sorted(os.listdir("upper"))
    subprocess.run(["umount", "merged"], check=True)
    return result


@test
def programs():
    """A database, an archive, a build."""
    sqlite = ("import sqlite3; c = sqlite3.connect('db'); c.execute('pragma journal_mode=wal').fetchone();"
              "c.execute('create table t(x)'); c.executemany('insert into t values(?)', [(i,) for i in range(1000)]); c.commit();"
              "print(c.execute('select sum(x) from t').fetchone(), c.execute('pragma integrity_check').fetchone())")
    database = subprocess.run([sys.executable, "-c", sqlite], capture_output=True, check=False)
    tar = subprocess.run("mkdir tree && cp -a /usr/lib/python3*/json tree && tar -cf a.tar tree && mkdir out && tar -xf a.tar -C out"
                         " && diff -r tree out/tree && find out -type f | wc -l | grep -qv '^0$' && echo same",
                         shell=True, capture_output=True, check=False)
    return database.stdout, database.stderr[-200:], tar.stdout, tar.stderr[-200:]
