"""A stand-in for the Hugging Face Hub on loopback: the few routes that a model needs.

It keeps every commit of every repository in memory, with all files.
"""

import base64
import hashlib
import http.server
import json
import re
import threading
import urllib.parse

import pytest


class Hub(http.server.ThreadingHTTPServer):
    """Answers as the Hub does; `commits` has {repository: {commit: {path: bytes}}}."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.commits, self.main, self.tokens = {}, {}, set()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def files(self, repository, revision):
        commit = self.main[repository] if revision == "main" else revision
        return commit, self.commits[repository][commit]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", **headers):
        if not isinstance(body, bytes):
            body, headers["Content-Type"] = (
                json.dumps(body).encode(),
                "application/json",
            )
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = urllib.parse.urlsplit(self.path).path
        self.server.tokens.add(self.headers.get("Authorization"))
        if self.headers.get("Authorization") != "Bearer secret":
            return self.answer(401, {"error": "no token"})
        if path == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.server.commits.setdefault(name, {"0" * 40: {}})
            self.server.main.setdefault(name, "0" * 40)
            return self.answer(200, {"url": f"{self.server.url}/{name}"})
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", path)
        if not found:
            return self.answer(404, {"error": path})
        name = found[1]
        if found[2] == "preupload":
            known = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]
            return self.answer(200, {"files": known})
        content = dict(self.server.files(name, "main")[1])
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                value = line["value"]
                content[value["path"]] = base64.b64decode(value["content"])
        commit = hashlib.sha1(body).hexdigest()
        self.server.commits[name][commit] = content
        self.server.main[name] = commit
        url = f"{self.server.url}/{name}/commit/{commit}"
        return self.answer(
            200, {"success": True, "commitOid": commit, "commitUrl": url}
        )

    def do_GET(self):
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        try:
            if found := re.fullmatch(
                r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path
            ):
                commit, content = self.server.files(found[1], found[3] or "main")
                if found[2] == "tree":
                    return self.answer(
                        200,
                        [
                            {
                                "type": "file",
                                "path": p,
                                "size": len(b),
                                "oid": digest(b),
                            }
                            for p, b in content.items()
                        ],
                    )
                names = [{"rfilename": p} for p in content]
                about = {"id": found[1], "sha": commit, "siblings": names}
                return self.answer(200, about | {"private": False, "tags": []})
            found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
            commit, content = self.server.files(found[1], found[2])
            body = content[found[3]]
            etag = f'"{digest(body)}"'
            return self.answer(200, body, ETag=etag, X_Repo_Commit=commit)
        except (KeyError, TypeError):
            return self.answer(404, {"error": "not found"}, X_Error_Code="RepoNotFound")

    do_HEAD = do_GET


def digest(data):
    return hashlib.sha1(data).hexdigest()


@pytest.fixture(scope="module")
def hub_server():
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
