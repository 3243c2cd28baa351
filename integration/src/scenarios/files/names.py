# Names: making, linking, renaming and removing them.


@test
def create_exclusively():
    write("file", flags=os.O_EXCL)
    return said(lambda: write("file", flags=os.O_EXCL)), said(lambda: write("absent/file"))


@test
def unlinked_and_open():
    fd = os.open("file", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"kept")
    os.unlink("file")
    before = os.fstat(fd).st_nlink
    os.lseek(fd, 0, 0)
    os.fchmod(fd, 0o600)
    os.ftruncate(fd, 2)
    through = said(lambda: read(f"/proc/self/fd/{fd}"))
    return before, os.read(fd, 9), oct(os.fstat(fd).st_mode), os.path.exists("file"), through, os.listdir(".")


@test
def directory_removed_while_inside():
    os.mkdir("dir")
    back = os.open(".", os.O_RDONLY)
    os.chdir("dir")
    os.rmdir("../dir")
    result = said(lambda: write("file")), said(lambda: os.listdir(".")), said(os.getcwd)
    os.fchdir(back)
    return result


@test
def temporary_file():
    fd = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o640)
    os.write(fd, b"named later")
    os.link(f"/proc/self/fd/{fd}", "named", follow_symlinks=True)
    return read("named"), mode("named"), os.stat("named").st_nlink


@test
def hard_links():
    write("one")
    os.link("one", "two")
    same = os.path.samefile("one", "two"), os.stat("one").st_nlink
    os.unlink("one")
    os.mkdir("dir")
    return same, os.stat("two").st_nlink, said(lambda: os.link("dir", "other"))


@test
def symbolic_links():
    os.symlink("target", "link")
    dangling = said(lambda: read("link")), os.readlink("link"), os.lstat("link").st_size
    write("link", b"through")
    os.symlink("loop", "loop")
    nofollow = said(lambda: os.open("link", os.O_RDONLY | os.O_NOFOLLOW))
    return dangling, read("target"), said(lambda: read("loop")), nofollow, said(lambda: os.symlink("x", "link"))


@test
def renames():
    write("one", b"1")
    write("two", b"2")
    os.mkdir("full")
    write("full/file")
    os.mkdir("empty")
    result = [said(lambda: os.rename("empty", "full")), said(lambda: os.rename("one", "full"))]
    result += [said(lambda: os.rename("full", "one")), said(lambda: os.rename("full", "full/inside"))]
    os.rename("one", "two")
    os.rename("full", "empty")
    return result, read("two"), sorted(os.listdir(".")), os.listdir("empty")


@test
def rename_flags():
    write("one", b"1")
    write("two", b"2")
    at = -100

    def renameat2(old, new, flags):
        if LIBC.renameat2(at, old, at, new, flags) != 0:
            raise OSError(ctypes.get_errno(), "renameat2")
        return "done"

    noreplace = said(lambda: renameat2(b"one", b"two", 1))
    exchange = said(lambda: renameat2(b"one", b"two", 2))
    return noreplace, exchange, read("one"), read("two"), said(lambda: renameat2(b"one", b"three", 4)) in ("done", "EINVAL")


@test
def open_file_renamed():
    fd = os.open("one", os.O_RDWR | os.O_CREAT)
    os.rename("one", "two")
    os.write(fd, b"after")
    write("one", b"another")
    return read("two"), read("one"), os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))


@test
def odd_names():
    long, names = "n" * 255, ["a b", "new\nline", "ü", "-rf", "*", "\x01", "a\\b"]
    for name in names:
        write(name)
    bad = said(lambda: write(b"\xff\xfe")), said(lambda: write(long)), said(lambda: write(long + "n"))
    return bad, sorted(os.listdir(b".")) == sorted([name.encode() for name in names] + [b"\xff\xfe", long.encode()])


@test
def many_entries():
    for number in range(300):
        write(f"file-{number:04}", b"")
    first = sorted(os.listdir("."))
    # Entries that go while a directory is read.
    scan, seen = os.scandir("."), []
    for entry in scan:
        seen.append(entry.name)
        os.unlink(entry.name)
    return len(first), len(set(seen)), os.listdir(".")


@test
def deep_path():
    depth = 0
    top = os.open(".", os.O_RDONLY)
    while depth < 60:
        os.mkdir("d" * 100)
        os.chdir("d" * 100)
        depth += 1
    cwd = said(lambda: len(os.getcwd()) > 5000)
    os.fchdir(top)
    shutil.rmtree("d" * 100)
    return depth, cwd, os.listdir(".")


@test
def open_modes():
    write("file", b"abc")
    read_only = os.open("file", os.O_RDONLY)
    write_only = os.open("file", os.O_WRONLY)
    path = os.open("file", os.O_PATH)
    return (said(lambda: os.write(read_only, b"x")), said(lambda: os.read(write_only, 1)), said(lambda: os.read(path, 1)),
            os.fstat(path).st_size, said(lambda: os.open(".", os.O_WRONLY)), said(lambda: os.open("file", os.O_DIRECTORY)),
            said(lambda: os.open("file/x", os.O_RDONLY)), said(lambda: os.close(os.open("file", os.O_RDONLY | os.O_NOATIME))))
