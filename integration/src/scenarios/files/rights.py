# Who may do what.


@test
def modes():
    os.umask(0o027)
    write("file", mode=0o666)
    os.mkdir("dir", 0o777)
    os.umask(0o022)
    made = mode("file"), mode("dir")
    os.chmod("file", 0o6755)
    os.chmod("dir", 0o1777)
    return made, mode("file"), mode("dir")


@test
def set_id_bits_go():
    write("file")
    os.chmod("file", 0o6755)
    if os.getuid() == 0:
        os.chown("file", 12, 34)
        owned = mode("file"), os.stat("file").st_uid, os.stat("file").st_gid
        os.chmod("file", 0o6777)

        def written():
            os.setgroups([])
            os.setgid(1000)
            os.setuid(1000)
            write("file", b"y")

        os.chmod(".", 0o777)
        in_child(written)
        return owned, mode("file")
    write("file", b"y")
    return mode("file"), said(lambda: os.chown("file", 12, 34))


@test
def group_of_directory():
    os.mkdir("dir")
    if os.getuid() == 0:
        os.chown("dir", 0, 77)
    os.chmod("dir", 0o2775)
    write("dir/file")
    os.mkdir("dir/below")
    return os.stat("dir/file").st_gid, mode("dir/below"), os.stat("dir/below").st_gid


@test
def others_are_refused():
    if os.getuid() != 0:
        return said(lambda: write("/etc/hostname-not")), said(lambda: os.chown(".", 0, 0)), said(lambda: os.listdir("/root"))
    write("secret", mode=0o600)
    os.mkdir("closed", 0o700)
    write("closed/file")
    os.mkdir("sticky")
    os.chmod("sticky", 0o1777)
    write("sticky/file", mode=0o666)

    def other():
        os.setgroups([])
        os.setgid(1000)
        os.setuid(1000)
        made = said(lambda: write("sticky/own"))
        own = os.stat("sticky/own").st_uid, os.stat("sticky/own").st_gid
        return (said(lambda: read("secret")), said(lambda: read("closed/file")), said(lambda: os.unlink("sticky/file")), made,
                own, said(lambda: os.access("secret", os.R_OK)), said(lambda: os.chmod("secret", 0o644)))

    return in_child(other)


@test
def supplementary_group():
    if os.getuid() != 0:
        return sorted(os.getgroups())
    write("file", b"for the group", mode=0o640)
    os.chown("file", 0, 77)
    os.chmod("file", 0o660)

    def member():
        os.setgroups([77])
        os.setgid(1000)
        os.setuid(1000)
        return read("file"), write("file")

    return in_child(member)


@test
def without_capabilities():
    """Root that may not override permissions."""
    if os.getuid() != 0:
        return "not root"
    write("file", mode=0o000)

    def bare():
        header, data = struct.pack("Ii", 0x20080522, 0), struct.pack("6I", 0, 0, 0, 0, 0, 0)
        LIBC.capset(header, data)
        return said(lambda: read("file")), said(lambda: os.chown("file", 1, 1)), said(lambda: write("file2"))

    return in_child(bare)


@test
def access_control_lists():
    # posix_acl_xattr: version 2, user::rw-, user:1000:r--, group::r--, mask::r--, other::---
    entries = [(1, 6, 0xFFFFFFFF), (2, 4, 1000), (4, 4, 0xFFFFFFFF), (16, 4, 0xFFFFFFFF), (32, 0, 0xFFFFFFFF)]
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    write("file", mode=0o600)
    result = said(lambda: os.setxattr("file", "system.posix_acl_access", acl))
    if result is not None or os.getuid() != 0:
        return result

    def user():
        os.setgroups([])
        os.setgid(1000)
        os.setuid(1000)
        return read("file"), said(lambda: write("file"))

    os.chmod(".", 0o755)
    return mode("file"), in_child(user)


@test
def extended_attributes():
    write("file")
    os.setxattr("file", "user.colour", b"red")
    result = [os.getxattr("file", "user.colour"), os.listxattr("file"), said(lambda: os.getxattr("file", "user.none"))]
    result.append(said(lambda: os.setxattr("file", "user.colour", b"", os.XATTR_CREATE)))
    os.removexattr("file", "user.colour")
    result += [os.listxattr("file"), said(lambda: os.setxattr("file", "trusted.mine", b"1"))]
    capability = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)
    result.append(said(lambda: os.setxattr("file", "security.capability", capability)))
    write("file", b"y")
    result.append(said(lambda: os.getxattr("file", "security.capability")))
    return result


@test
def device_nodes():
    made = said(lambda: os.mknod("null", 0o666 | stat.S_IFCHR, os.makedev(1, 3)))
    if made is not None:
        return made
    return stat.filemode(os.lstat("null").st_mode)[0], os.lstat("null").st_rdev, said(lambda: write("null"))
