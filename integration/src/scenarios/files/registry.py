"""A registry for one image, that of the OCI layout in the directory argv[1]. With argv[2] it lies: `blob` changes a byte of
each blob, `endless` never ends one. Prints its port."""
import http.server
import json
import pathlib
import sys

layout = pathlib.Path(sys.argv[1])
lie = sys.argv[2] if len(sys.argv) > 2 else ""
manifest = json.loads((layout / "index.json").read_text())["manifests"][0]


class Registry(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        kind, _, name = self.path.rpartition("/")
        if self.path == "/v2/":
            return self.answer(b"{}", "application/json")
        digest = name if name.startswith("sha256:") else manifest["digest"]
        blob = layout / "blobs" / digest.replace(":", "/")
        if not self.path.startswith("/v2/app/") or not blob.exists():
            return self.send_error(404)
        content = blob.read_bytes()
        if kind.endswith("/manifests"):
            return self.answer(content, manifest["mediaType"])
        if lie == "blob":
            content = content[:-1] + bytes([content[-1] ^ 1])
        self.answer(content, "application/octet-stream")

    def answer(self, content, kind):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        if lie == "endless" and kind == "application/octet-stream":
            self.end_headers()
            self.close_connection = True
            try:
                while True:
                    self.wfile.write(content)
            except OSError:
                return
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Registry)
print(server.server_port, flush=True)
server.serve_forever()
