"""Doctor on Ray, S3 and MLflow: reached, let in, closed to others; every refusal with its fix, no secret shown."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from raygseg.cli import doctor_services as services
from raygseg.data import s3_objects

TOKEN, PASSWORD = "right-token", "right-password"


class Answer(BaseHTTPRequestHandler):
    """A Ray head with a token, an MLflow server with a password, an S3 that knows no key, /broken."""

    version, open_to_all = "2.60.0", False

    def do_GET(self) -> None:
        basic = f"Basic {base64.b64encode(f'ann:{PASSWORD}'.encode()).decode()}"
        known = self.headers.get("Authorization") in (f"Bearer {TOKEN}", basic)
        status, body = 403, b""
        if self.path in ("/health", "/broken/health"):
            status = 500 if "broken" in self.path else 200
        elif self.path == "/api/version" or self.path.startswith("/api/2.0/"):
            given = "Authorization" in self.headers
            status = 200 if known or self.open_to_all else 403 if given else 401
            body = json.dumps({"ray_version": self.version}).encode()
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    httpd = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(services.os.environ):
        if name.startswith(("RAY_", "AWS_", "MLFLOW_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def test_a_bare_machine_is_well() -> None:
    assert {check().state for check in services.SERVICES} == {"ok"}


def test_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / ".ray" / "auth_token"
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert services.check_token().state == "fail"
    file.parent.mkdir()
    file.write_text(TOKEN)
    file.chmod(0o644)
    assert services.check_token().fix == f"chmod 600 {file}"
    file.chmod(0o600)
    assert services.check_token().state == "ok"
    monkeypatch.delenv("RAY_AUTH_MODE")  # the trap: a head takes the file by itself, workers do not
    assert services.check_token().state == "note"
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    assert services.check_token().state == "note"
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert (services.check_token().state, TOKEN in str(services.check_token())) == ("ok", False)


def test_cluster(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services.metadata, "version", lambda _: "2.60.0")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", server)
    assert "wants a token" in services.check_cluster().found
    monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong")
    assert "does not know our token" in services.check_cluster().found
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    assert services.check_cluster().state == "ok"
    monkeypatch.setattr(Answer, "open_to_all", True)
    assert "anyone who reaches it runs code" in services.check_cluster().found
    monkeypatch.setattr(Answer, "version", "2.58.0")
    assert services.check_cluster().fix == "pip install 'ray==2.58.0'"


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "127.0.0.1:9", "ray://127.0.0.1:9", "nonsense"])
def test_no_cluster_there(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    finding = services.check_cluster()
    assert (finding.state, bool(finding.fix)) == ("fail", True)


def test_cluster_by_its_own_port(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", server.removeprefix("http://"))
    assert services.check_cluster().state == "ok"


class RefusalError(Exception):
    def __init__(self, code: str) -> None:
        self.response = {"Error": {"Code": code}}


def test_s3(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    assert services.check_s3().state == "note"  # it answers, but no key is set
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setattr(s3_objects, "buckets", lambda: ["lab"])
    assert services.check_s3() == ("S3", "ok", f"{server} knows our key; buckets: lab", "")
    for code, state in (("AccessDenied", "ok"), ("SignatureDoesNotMatch", "fail"), ("InvalidAccessKeyId", "fail")):

        def refuse(code: str = code) -> list[str]:
            raise RefusalError(code)

        monkeypatch.setattr(s3_objects, "buckets", refuse)
        assert services.check_s3().state == state
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert services.check_s3().state == "fail"


def test_key_file(tmp_path: Path) -> None:
    file = tmp_path / ".aws" / "credentials"
    file.parent.mkdir()
    file.write_text("[default]")
    file.chmod(0o640)
    assert services.check_key_file().fix == f"chmod 600 {file}"
    file.chmod(0o600)
    assert services.check_key_file().state == "ok"


def test_mlflow_server(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    assert "wants a password" in services.check_mlflow().found
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
    assert "does not take our password" in services.check_mlflow().found
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    assert services.check_mlflow().state == "ok"
    monkeypatch.setattr(Answer, "open_to_all", True)
    assert services.check_mlflow().state == "ok"  # on loopback
    monkeypatch.setattr(services, "_LOOPBACK", ())
    assert services.check_mlflow().found.endswith("answers whoever asks")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{server}/broken")
    assert services.check_mlflow().state == "fail"
    for uri in (f"http://ann:{PASSWORD}@host:5000", f"postgresql://ann:{PASSWORD}@host/db"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert services.check_mlflow().state != "ok"
        assert PASSWORD not in str(services.check_mlflow())


def test_pickles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "true")
    assert services.check_pickles().state == "note"
