"""The cluster's keys: one authority, a certificate for each program that speaks, and who it is as a kubeconfig."""

import base64
import json

from boxlib.errors import run

DAYS = "2"


class Authority:
    """A certificate authority in a folder of its own."""

    def __init__(self, folder):
        self.folder, self.log = folder, folder / "openssl.log"
        folder.mkdir()
        self.certificate, self.key = folder / "ca.crt", folder / "ca.key"
        self._openssl("req", "-x509", *_new_key(self.key), "-subj", "/CN=krun-test", "-days", DAYS,
                      "-out", self.certificate)

    def issue(self, name, user, group=None, reached_as=()):
        """A key and a certificate for that user of Kubernetes; `reached_as` are a server's addresses,
        like IP:127.0.0.1."""
        key, certificate = self.folder / f"{name}.key", self.folder / f"{name}.crt"
        subject = (f"/O={group}" if group else "") + f"/CN={user}"
        extensions = ["-addext", "subjectAltName=" + ",".join(reached_as)] if reached_as else []
        self._openssl("req", "-x509", *_new_key(key), "-subj", subject, "-days", DAYS, *extensions,
                      "-CA", self.certificate, "-CAkey", self.key, "-out", certificate)
        return certificate, key

    def service_account_key(self):
        """The key that signs service accounts' tokens."""
        key = self.folder / "service-account.key"
        self._openssl("genrsa", "-out", key, "2048")
        return key

    def kubeconfig(self, name, user, server, group=None):
        """A file with which a client is that user; whole in itself, so it can travel."""
        certificate, key = self.issue(name, user, group)
        files = {"certificate-authority-data": self.certificate, "client-certificate-data": certificate,
                 "client-key-data": key}
        data = {word: _base64(file) for word, file in files.items()}
        authority = data.pop("certificate-authority-data")
        path = self.folder / f"{name}.kubeconfig"
        path.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [{"name": "it", "cluster": {"server": server, "certificate-authority-data": authority}}],
            "users": [{"name": "it", "user": data}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        }), encoding="utf-8")
        return path

    def _openssl(self, *words):
        run("openssl", *words, log=self.log)


def _new_key(path):
    return "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc", "-keyout", path


def _base64(file):
    return base64.b64encode(file.read_bytes()).decode()
