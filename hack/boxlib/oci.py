"""Writes OCI image archives (`ctr images import` reads them) from directories, one layer per directory."""

import gzip
import hashlib
import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
EPOCH = "1970-01-01T00:00:00Z"
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass
class Layer:
    """A layer's file and the digest that it has uncompressed."""

    path: Path
    diff_id: str


@dataclass
class Image:
    """An image by its full name, its layers, lowest first, its command, and its user where that is not root."""

    name: str
    layers: list
    command: list
    user: str = ""


class _Hashing(io.RawIOBase):
    """Passes on what is written and knows its digest."""

    def __init__(self, file):
        self.file, self.sha256 = file, hashlib.sha256()

    def write(self, data):
        self.sha256.update(data)
        return self.file.write(data)


def layer(directory, target, without=()):
    """Makes a layer, in the file `target`, of a directory without its devices and the paths that begin like `without`.

    It is compressed because every byte of it is expensive to import in an emulated box.
    """
    with gzip.GzipFile(target, "wb", compresslevel=1, mtime=0) as packed:
        hashing = _Hashing(packed)
        with tarfile.open(fileobj=hashing, mode="w|", format=tarfile.PAX_FORMAT) as tar:
            for path in sorted(directory.rglob("*")):
                name = str(path.relative_to(directory))
                entry = tar.gettarinfo(path, name)
                if entry is None or entry.ischr() or entry.isblk() or name.startswith(tuple(without)):
                    continue
                if entry.isreg():
                    with open(path, "rb") as file:
                        tar.addfile(entry, file)
                else:
                    tar.addfile(entry)
    return Layer(target, f"sha256:{hashing.sha256.hexdigest()}")


def archive(images, target):
    """Writes one archive with all those images; a layer that several share is in it once."""
    written = {}
    with tarfile.open(target, "w") as tar:
        def blob(media_type, data):
            digest = f"sha256:{_sha256(data)}"
            size = data.stat().st_size if isinstance(data, Path) else len(data)
            if digest not in written:
                written[digest] = True
                _add(tar, "blobs/" + digest.replace(":", "/"), data, size)
            return {"mediaType": media_type, "digest": digest, "size": size}

        manifests = []
        for image in images:
            layers = [blob(LAYER, layer.path) for layer in image.layers]
            config = blob(CONFIG, _json({
                "created": EPOCH, "architecture": "amd64", "os": "linux",
                "config": {"Env": [PATH], "Cmd": image.command, "User": image.user, "WorkingDir": "/"},
                "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in image.layers]},
            }))
            manifest = blob(MANIFEST, _json({
                "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers,
            }))
            manifests.append({
                **manifest,
                "platform": {"architecture": "amd64", "os": "linux"},
                "annotations": {
                    "io.containerd.image.name": image.name,
                    "org.opencontainers.image.ref.name": image.name.rsplit(":", 1)[1],
                },
            })
        index = _json({"schemaVersion": 2, "manifests": manifests})
        _add(tar, "index.json", index, len(index))
        layout = _json({"imageLayoutVersion": "1.0.0"})
        _add(tar, "oci-layout", layout, len(layout))
    return target


def _json(value):
    return json.dumps(value, sort_keys=True).encode()


def _sha256(data):
    if isinstance(data, bytes):
        return hashlib.sha256(data).hexdigest()
    digest = hashlib.sha256()
    with open(data, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _add(tar, name, data, size):
    entry = tarfile.TarInfo(name)
    entry.size = size
    with io.BytesIO(data) if isinstance(data, bytes) else open(data, "rb") as file:
        tar.addfile(entry, file)
