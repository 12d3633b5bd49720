"""A bucket of Google Cloud Storage on loopback: as much of its JSON interface as gcsfs and tensorstore use.

Objects lie in memory. Source: cloud.google.com/storage/docs/json_api.
"""

import base64
import contextlib
import email
import email.policy
import hashlib
import http.server
import json
import re
import threading
import urllib.parse
from collections.abc import Iterator
from typing import Any

OBJECT = re.compile(r"(?:/download)?/storage/v1/b/([^/]+)/o/([^/]+)(?:/rewriteTo/b/([^/]+)/o/([^/]+))?")
OBJECTS = re.compile(r"(/upload)?/storage/v1/b/([^/]+)/o")
BUCKET = re.compile(r"/storage/v1/b/([^/]+)(/storageLayout)?")


class Store:
    """Objects by bucket and name, each with its generation."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], tuple[bytes, int]] = {}
        self.uploads: dict[str, tuple[str, str, bytes]] = {}
        self.lock = threading.Lock()
        self.generation = 0

    def put(self, bucket: str, name: str, data: bytes) -> dict[str, Any]:
        with self.lock:
            self.generation += 1
            self.objects[bucket, name] = data, self.generation
        return self.meta(bucket, name)

    def meta(self, bucket: str, name: str) -> dict[str, Any]:
        data, generation = self.objects[bucket, name]
        return {
            "kind": "storage#object",
            "name": name,
            "bucket": bucket,
            "size": str(len(data)),
            "generation": str(generation),
            "metageneration": "1",
            "updated": "2026-01-01T00:00:00.000Z",
            "timeCreated": "2026-01-01T00:00:00.000Z",
            "storageClass": "STANDARD",
            "md5Hash": base64.b64encode(hashlib.md5(data).digest()).decode(),
            "etag": str(generation),
        }


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: Store

    def log_message(self, *arguments: Any) -> None:
        pass

    def _answer(self, status: int, body: Any = b"", **headers: str) -> None:
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
            headers = {"Content-Type": "application/json"} | headers
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _handle(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if url.path.startswith("/batch"):
            self._batch(body)
        elif found := OBJECT.fullmatch(url.path):
            names = [urllib.parse.unquote(part) if part else "" for part in found.groups()]
            self._object(query, *names)
        elif found := OBJECTS.fullmatch(url.path):
            if found[1]:
                self._upload(query, found[2], body)
            else:
                self._list(query, found[2])
        elif found := BUCKET.fullmatch(url.path):
            self._answer(200, {"kind": "storage#bucket", "name": found[1], "location": "HERE"})
        else:
            self._answer(404, {"error": {"code": 404, "message": f"no {self.path}"}})

    do_GET = do_POST = do_PUT = do_DELETE = _handle

    def _object(self, query: dict[str, str], bucket: str, name: str, to_bucket: str, to_name: str) -> None:
        held = self.store.objects.get((bucket, name))
        wanted = query.get("ifGenerationMatch")
        if held is None:
            self._answer(404, {"error": {"code": 404, "message": f"No such object: {bucket}/{name}"}})
        elif wanted is not None and wanted != str(held[1]):
            self._answer(412, {"error": {"code": 412, "message": "conditionNotMet"}})
        elif to_name:
            resource = self.store.put(to_bucket, to_name, held[0])
            self._answer(200, {"kind": "storage#rewriteResponse", "done": True, "resource": resource})
        elif self.command == "DELETE":
            self.store.objects.pop((bucket, name), None)
            self._answer(204)
        elif query.get("alt") == "media":
            self._media(held)
        else:
            self._answer(200, self.store.meta(bucket, name))

    def _media(self, held: tuple[bytes, int]) -> None:
        data, generation = held
        marks = {"x_goog_generation": str(generation), "ETag": str(generation)}
        ranged = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if ranged is None:
            self._answer(200, data, **marks)
            return
        first = int(ranged[1]) if ranged[1] else max(0, len(data) - int(ranged[2]))
        last = min(len(data) - 1, int(ranged[2])) if ranged[1] and ranged[2] else len(data) - 1
        if first >= len(data):
            self._answer(416)
            return
        self._answer(206, data[first : last + 1], Content_Range=f"bytes {first}-{last}/{len(data)}", **marks)

    def _upload(self, query: dict[str, str], bucket: str, body: bytes) -> None:
        kind = query.get("uploadType")
        if kind == "resumable" and self.command == "POST":
            name = query.get("name") or json.loads(body)["name"]
            key = f"{bucket}-{len(self.store.uploads)}"
            self.store.uploads[key] = bucket, name, b""
            where = f"http://{self.headers['Host']}/upload/storage/v1/b/{bucket}/o?upload_id={key}"
            self._answer(200, b"", Location=where)
        elif "upload_id" in query:
            bucket, name, data = self.store.uploads[query["upload_id"]]
            data += body
            self.store.uploads[query["upload_id"]] = bucket, name, data
            if self.headers.get("Content-Range", "").endswith("/*"):
                self._answer(308, b"", Range=f"bytes=0-{len(data) - 1}")
            else:
                self._answer(200, self.store.put(bucket, name, data))
        elif kind == "multipart":
            head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
            meta, data = email.message_from_bytes(head + body, policy=email.policy.HTTP).iter_parts()
            name = json.loads(meta.get_payload(decode=True))["name"]
            self._answer(200, self.store.put(bucket, name, data.get_payload(decode=True)))
        else:
            held = self.store.objects.get((bucket, query["name"]))
            wanted = query.get("ifGenerationMatch")
            if wanted is not None and wanted != str(held[1] if held else 0):
                self._answer(412, {"error": {"code": 412, "message": "conditionNotMet"}})
                return
            self._answer(200, self.store.put(bucket, query["name"], body))

    def _list(self, query: dict[str, str], bucket: str) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        items, prefixes = [], set()
        for held, name in sorted(self.store.objects):
            if held != bucket or not name.startswith(prefix):
                continue
            if name < query.get("startOffset", "") or name >= query.get("endOffset", "\U0010ffff"):
                continue
            rest = name[len(prefix) :]
            if delimiter and delimiter in rest:
                prefixes.add(prefix + rest.split(delimiter)[0] + delimiter)
            else:
                items.append(self.store.meta(bucket, name))
        self._answer(200, {"kind": "storage#objects", "items": items, "prefixes": sorted(prefixes)})

    def _batch(self, body: bytes) -> None:
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        answers = []
        for part in email.message_from_bytes(head + body, policy=email.policy.HTTP).iter_parts():
            path = part.get_payload(decode=True).decode().split()[1]
            found = OBJECT.fullmatch(urllib.parse.urlsplit(path).path)
            names = tuple(urllib.parse.unquote(name) for name in found.groups()[:2])
            there = self.store.objects.pop(names, None) is not None
            status = "204 No Content" if there else "404 Not Found"
            answers.append(
                f"--batch\r\nContent-Type: application/http\r\nContent-ID: <response-{part['Content-ID']}>"
                f"\r\n\r\nHTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n\r\n"
            )
        text = "".join(answers) + "--batch--\r\n"
        self._answer(200, text.encode(), Content_Type="multipart/mixed; boundary=batch")


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has hung up is none."""


@contextlib.contextmanager
def bucket() -> Iterator[tuple[str, Store]]:
    """The address of a server, for STORAGE_EMULATOR_HOST and TENSORSTORE_GCS_HTTP_URL, and what it holds."""
    store = Store()
    handler = type("Bound", (Handler,), {"store": store})
    server = Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", store
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
