# Contents: writing, mapping, executing.


@test
def append_from_two():
    write("file", b"")
    one, two = (os.open("file", os.O_WRONLY | os.O_APPEND) for _ in range(2))
    for number in range(50):
        os.write((one, two)[number % 2], b"%02d\n" % number)
    return read("file") == b"".join(b"%02d\n" % number for number in range(50))


@test
def append_from_processes():
    children = []
    for child in range(4):
        pid = os.fork()
        if pid == 0:
            fd = os.open("file", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            for _ in range(100):
                os.write(fd, b"%d" % child * 63 + b"\n")
            os._exit(0)
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)
    lines = read("file").splitlines()
    return len(lines), all(len(set(line)) == 1 and len(line) == 63 for line in lines)


@test
def sizes_and_holes():
    fd = os.open("file", os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, b"end", 1 << 20)
    size = os.fstat(fd).st_size, os.fstat(fd).st_blocks < 1024, os.pread(fd, 2, 5)
    os.ftruncate(fd, 3)
    os.ftruncate(fd, 6)
    return size, read("file"), said(lambda: os.ftruncate(fd, -1)), said(lambda: os.truncate(".", 0))


@test
def seek_data_and_hole():
    fd = os.open("file", os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, b"x" * 65536, 1 << 20)
    os.fsync(fd)
    return os.lseek(fd, 0, os.SEEK_DATA), os.lseek(fd, 1 << 20, os.SEEK_HOLE), said(lambda: os.lseek(fd, 9 << 20, os.SEEK_DATA))


@test
def allocation():
    fd = os.open("file", os.O_RDWR | os.O_CREAT)
    os.posix_fallocate(fd, 0, 1 << 20)
    grown = os.fstat(fd).st_size, os.fstat(fd).st_blocks >= 2048
    os.pwrite(fd, b"x" * 8192, 0)
    # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE; FALLOC_FL_KEEP_SIZE
    LIBC.fallocate64.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    punched = LIBC.fallocate64(fd, 3, 0, 4096), os.pread(fd, 4098, 0)[4094:]
    kept = LIBC.fallocate64(fd, 1, 0, 2 << 20), os.fstat(fd).st_size
    return grown, punched, kept


@test
def copies():
    write("from", b"0123456789" * 1000)
    source, target = os.open("from", os.O_RDONLY), os.open("to", os.O_RDWR | os.O_CREAT)
    copied = os.copy_file_range(source, target, 10000, 0, 0)
    sent = os.sendfile(target, source, 0, 100)
    shutil.copy2("from", "third")
    return copied, sent, os.fstat(target).st_size, os.stat("third").st_mtime == os.stat("from").st_mtime


@test
def shared_mapping():
    write("file", b"a" * 8192)
    fd = os.open("file", os.O_RDWR)
    other = os.open("file", os.O_RDWR)
    with mmap.mmap(fd, 8192) as memory:
        memory[0:5] = b"hello"
        seen = os.pread(other, 5, 0)
        os.pwrite(other, b"world", 4096)
        back = memory[4096:4101]
        memory[8191:8192] = b"!"
        memory.flush()
    with mmap.mmap(fd, 8192, mmap.MAP_PRIVATE) as private:
        private[0:5] = b"local"
        kept = os.pread(fd, 5, 0)
    return seen, back, read("file")[-1:], kept


@test
def mapping_between_processes():
    write("file", b"\0" * 4096)
    fd = os.open("file", os.O_RDWR)
    memory = mmap.mmap(fd, 4096)
    pid = os.fork()
    if pid == 0:
        memory[0:5] = b"child"
        os._exit(0)
    os.waitpid(pid, 0)
    return memory[0:5], os.pread(fd, 5, 0)


@test
def mapping_beyond_the_end():
    script = ("import mmap, os; fd = os.open('file', os.O_RDWR | os.O_CREAT); os.ftruncate(fd, 4096);"
              "m = mmap.mmap(fd, 4096); os.ftruncate(fd, 0); m[0]")
    return subprocess.run([sys.executable, "-c", script], check=False).returncode


@test
def execute_while_written():
    shutil.copy("/bin/true", "program")
    fd = os.open("program", os.O_WRONLY)
    busy = said(lambda: subprocess.run(["./program"], check=False).returncode)
    os.close(fd)
    ran = said(lambda: subprocess.run(["./program"], check=False).returncode)
    os.chmod("program", 0o644)
    write("script", b"#!/bin/sh\nexit 3\n", mode=0o755)
    return busy, ran, said(lambda: subprocess.run(["./program"], check=False).returncode), subprocess.run(["./script"], check=False).returncode


@test
def write_while_executed():
    shutil.copy("/bin/sleep", "program")
    child = subprocess.Popen(["./program", "100"])
    busy = said(lambda: write("program"))
    replaced = said(lambda: (write("new"), os.rename("new", "program"))[0])
    child.kill()
    child.wait()
    return busy, replaced


@test
def times():
    write("file")
    os.utime("file", ns=(1_000_000_001, 2_000_000_002))
    status = os.stat("file")
    exact = status.st_atime_ns, status.st_mtime_ns
    write("file", b"more")
    later = os.stat("file")
    os.mkdir("dir")
    os.utime("dir", (1, 1))
    write("dir/file")
    return exact, os.stat("dir").st_mtime > 1, abs(later.st_mtime - time.time()) < 5


@test
def direct_and_synchronous():
    memory = mmap.mmap(-1, 4096)
    memory.write(b"d" * 4096)
    fd = said(lambda: os.open("file", os.O_RDWR | os.O_CREAT | os.O_DIRECT))
    direct = said(lambda: os.writev(fd, [memory])) if not isinstance(fd, str) else fd
    write("sync", b"s", flags=os.O_SYNC)
    directory = os.open(".", os.O_RDONLY)
    os.fsync(directory)
    os.sync()
    return direct, read("sync")


@test
def large_file():
    fd = os.open("file", os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, b"far", 5 << 30)
    return os.stat("file").st_size, os.pread(fd, 3, 5 << 30)


@test
def truncated_by_another():
    write("file", b"x" * 10000)
    fd = os.open("file", os.O_RDONLY)
    os.read(fd, 100)
    write("file", b"short", flags=os.O_TRUNC)
    return os.read(fd, 100), os.fstat(fd).st_size, read("file")
