"""A registry for one image, that of the OCI layout in the directory argv[1]. With argv[2] it lies: `blob` changes a byte of
each blob, `truncated` sends half of one, `stalled` half and then nothing, which it says, `endless` never ends one, `401` knows nobody, `429` has too much to do, `tls` does not lie.
With a certificate and its key in the file argv[3] it speaks TLS, and wants the login argv[4]. Prints its port."""
import base64
import http.server
import json
import pathlib
import ssl
import sys

layout = pathlib.Path(sys.argv[1])
lie = sys.argv[2] if len(sys.argv) > 2 else ""
certificate, login = sys.argv[3:5] if len(sys.argv) > 4 else (None, None)
manifest = json.loads((layout / "index.json").read_text())["manifests"][0]


class Registry(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if lie == "429":
            return self.refuse(429, "Retry-After", "0")
        wanted = login and "Basic " + base64.b64encode(login.encode()).decode()
        if lie == "401" or wanted != (self.headers.get("Authorization") if wanted else None):
            return self.refuse(401, "WWW-Authenticate", 'Basic realm="krun"')
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

    def refuse(self, status, header, value):
        self.send_response(status)
        self.send_header(header, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def answer(self, content, kind):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        is_blob = kind == "application/octet-stream"
        if lie == "endless" and is_blob:
            self.end_headers()
            self.close_connection = True
            try:
                while True:
                    self.wfile.write(content)
            except OSError:
                return
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if lie == "stalled" and is_blob:
            self.wfile.write(content[:len(content) // 2])
            print("stalled", flush=True)
            return self.rfile.read(1)
        if lie == "truncated" and is_blob:
            content = content[:len(content) // 2]
            self.close_connection = True
        self.wfile.write(content)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Registry)
if certificate:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_port, flush=True)
server.serve_forever()
