"""Where packages are unpacked side by side, without dpkg's help."""


def merge(tree):
    """Makes the links of a merged /usr in an empty directory, where the packages expect them to be."""
    for link in ("bin", "sbin", "lib", "lib64"):
        (tree / "usr" / link).mkdir(parents=True)
        (tree / link).symlink_to(f"usr/{link}")
