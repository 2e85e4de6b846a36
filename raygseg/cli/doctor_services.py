"""What `raygseg doctor` checks of Ray, S3 and MLflow beside this machine: reached, let in, and closed to others."""

from __future__ import annotations

import json
import os
import re
import socket
import sqlite3
import stat
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from raygseg.cli.finding import Finding, ask, basic, unreachable

_TOKEN_EVERYWHERE = "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH on head, workers, drivers and submitters alike"
_LOOPBACK = ("127.", "localhost", "[::1]")


# --- Ray -----------------------------------------------------------------------------------------


def check_token() -> Finding:
    """The token by which a cluster knows its members: there, and nobody else's to read."""
    name, wanted = "Ray token", os.environ.get("RAY_AUTH_MODE", "").lower() == "token"
    given, default = os.environ.get("RAY_AUTH_TOKEN_PATH", ""), Path("~/.ray/auth_token").expanduser()
    if os.environ.get("RAY_AUTH_TOKEN"):
        state, fix = ("ok", "") if wanted else ("note", _TOKEN_EVERYWHERE)
        return Finding(name, state, "in RAY_AUTH_TOKEN" + ("" if wanted else ", but RAY_AUTH_MODE is not token"), fix)
    file = Path(given) if given else default
    if not file.is_file():
        if wanted or given:
            fix = "copy the cluster's token there (mode 600), or make one: ray get-auth-token --generate"
            return Finding(name, "fail", f"{file} is not there", fix)
        return Finding(name, "ok", "none; Ray on this machine alone needs none")
    if others := readable_by_others(file):
        return Finding(name, "fail", others, f"chmod 600 {file}")
    if not wanted:
        found = f"{file}, but RAY_AUTH_MODE is not token: a head started here demands it, workers do not give it"
        return Finding(name, "note", found, _TOKEN_EVERYWHERE)
    return Finding(name, "ok", f"{file}, readable by you alone")


def check_cluster() -> Finding:
    """The cluster named in the environment answers, takes our token and runs our version of Ray."""
    name = "Ray cluster"
    address = os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS") or ""
    if address in ("", "local", "auto"):
        return Finding(name, "ok", "none set (RAY_ADDRESS); commands start a local one")
    if not address.startswith(("http://", "https://")):
        trouble = _unconnectable(address.removeprefix("ray://"))
        fix = "start the cluster, or correct RAY_ADDRESS"
        return (
            Finding(name, "fail", f"{address}: {trouble}", fix)
            if trouble
            else Finding(name, "ok", f"{address} answers")
        )
    version = f"{address.rstrip('/')}/api/version"
    open_to_all = ask(version).status == 200
    answer = ask(version, _token_header())
    if answer.status in (401, 403):
        what = "wants a token" if answer.status == 401 else "does not know our token"
        return Finding(name, "fail", f"{address} {what}", _TOKEN_EVERYWHERE)
    if answer.status != 200:
        trouble = answer.trouble or f"HTTP {answer.status}"
        fix = "start it, open the way to it (kubectl port-forward, ray dashboard), or correct RAY_ADDRESS"
        return Finding(name, "fail", f"{address}: {trouble}", fix)
    return _judge_cluster(name, address, answer.body, open_to_all)


def _judge_cluster(name: str, address: str, body: bytes, open_to_all: bool) -> Finding:
    try:
        theirs = str(json.loads(body)["ray_version"])
    except (ValueError, KeyError, TypeError):
        return Finding(name, "fail", f"{address} is no Ray dashboard", "give the head's address with port 8265")
    try:
        ours = metadata.version("ray")
    except metadata.PackageNotFoundError:
        ours = theirs
    if ours != theirs:
        return Finding(name, "fail", f"{address} runs Ray {theirs}, this is {ours}", f"pip install 'ray=={theirs}'")
    if open_to_all:
        found = f"{address} answers whoever asks: anyone who reaches it runs code there"
        return Finding(name, "note" if _is_loopback(address) else "fail", found, _TOKEN_EVERYWHERE)
    return Finding(name, "ok", f"{address} answers, with our token only; Ray {theirs}")


def _token_header() -> dict[str, str]:
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
    token = os.environ.get("RAY_AUTH_TOKEN") or (file.read_text() if os.access(file, os.R_OK) else "")
    return {"Authorization": f"Bearer {token.strip()}"} if token else {}


def _unconnectable(address: str) -> str:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError) as error:
        return str(error)
    return ""


def _is_loopback(address: str) -> bool:
    return address.partition("://")[2].startswith(_LOOPBACK)


# --- S3 ------------------------------------------------------------------------------------------


def check_s3() -> Finding:
    """The endpoint answers and knows our keys."""
    endpoint = next((v for n in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL") if (v := os.environ.get(n))), "")
    if not endpoint:
        return Finding("S3", "ok", "no endpoint set (AWS_ENDPOINT_URL); local folders need none")
    if trouble := unreachable(endpoint):
        return Finding("S3", "fail", f"{endpoint}: {trouble}", "start the server, or correct AWS_ENDPOINT_URL")
    if not (
        os.environ.get("AWS_ACCESS_KEY_ID") or os.environ.get("AWS_PROFILE") or Path("~/.aws").expanduser().is_dir()
    ):
        return Finding(
            "S3", "note", f"{endpoint} answers; no key is set", "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    from raygseg.data import s3_objects

    try:
        buckets = s3_objects.buckets()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what was found
        code = s3_objects.error_code(error)
        if code == "AccessDenied":  # known, but not allowed to list all buckets, as it should be
            return Finding("S3", "ok", f"{endpoint} knows our key")
        fix = "correct AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        return Finding("S3", "fail", f"{endpoint} refuses our key ({code})", fix)
    return Finding("S3", "ok", f"{endpoint} knows our key; buckets: {', '.join(buckets) or 'none'}")


def check_key_file() -> Finding:
    """AWS' file of keys, where there is one, is nobody else's to read."""
    file = Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials").expanduser()
    if not file.is_file():
        return Finding("S3 keys", "ok", "in no file")
    others = readable_by_others(file)
    return Finding("S3 keys", "fail", others, f"chmod 600 {file}") if others else Finding("S3 keys", "ok", str(file))


def readable_by_others(file: Path) -> str:
    """A sentence where group or others may read the file; else empty."""
    mode = stat.S_IMODE(file.stat().st_mode)
    return f"{file} has mode {mode:o}: others may read it" if mode & 0o077 else ""


# --- MLflow --------------------------------------------------------------------------------------


def check_mlflow() -> Finding:
    """The default store's folder can be written, or the server in MLFLOW_TRACKING_URI answers and lets us in."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///runs/mlflow.db"
    if uri.startswith(("http://", "https://")):
        return _check_server(uri.rstrip("/"))
    if not uri.startswith("sqlite:///"):
        plain_folder = uri.startswith("file:") or "://" not in uri
        fix = "use sqlite:///PATH or the http:// address of a server" if plain_folder else ""
        return Finding("MLflow", "fail" if plain_folder else "note", f"{_without_password(uri)} (not checked)", fix)
    database = Path(uri.removeprefix("sqlite:///"))
    if database.is_file():
        return _check_database(uri, database)
    folder = next(parent for parent in database.absolute().parents if parent.is_dir())
    if not os.access(folder, os.W_OK):
        return Finding("MLflow", "fail", f"{uri}: {folder} cannot be written", "set MLFLOW_TRACKING_URI elsewhere")
    return Finding("MLflow", "ok", f"{uri} (made at the first run)")


def _check_server(uri: str) -> Finding:
    shown = _without_password(uri)
    if shown != uri:
        fix = "take it out; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        return Finding("MLflow", "fail", f"{shown}: a password in the address ends up in logs", fix)
    if trouble := unreachable(f"{uri}/health"):
        return Finding(
            "MLflow", "fail", f"{uri}: {trouble}", "start it (mlflow server …), or correct MLFLOW_TRACKING_URI"
        )
    runs = f"{uri}/api/2.0/mlflow/experiments/search?max_results=1"
    ours = basic(os.environ.get("MLFLOW_TRACKING_USERNAME", ""), os.environ.get("MLFLOW_TRACKING_PASSWORD", ""))
    status = ask(runs, ours).status
    if status in (401, 403):
        what = "does not take our password" if ours else "wants a password"
        fix = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        return Finding("MLflow", "fail", f"{uri} {what} (HTTP {status})", fix)
    if ask(runs).status == 200 and not _is_loopback(uri):
        fix = "start it with --app-name basic-auth, as cluster/services does"
        return Finding("MLflow", "note", f"{uri} answers whoever asks", fix)
    return Finding("MLflow", "ok", f"{uri} answers" + (", with our password only" if ours else ""))


def _without_password(uri: str) -> str:
    return re.sub(r"://[^/@]*:[^/@]*@", "://…@", uri)


def _check_database(uri: str, database: Path) -> Finding:
    try:
        with sqlite3.connect(f"file:{database}?mode=rw", uri=True, timeout=5) as connection:
            count = connection.execute("select count(*) from runs").fetchone()[0]
    except sqlite3.Error as error:
        return Finding(
            "MLflow", "fail", f"{uri}: {error}", "it is damaged or no MLflow store: move it away, or restore it"
        )
    return Finding("MLflow", "ok", f"{uri}, {count} runs")


def check_pickles() -> Finding:
    """Models are loaded without unpickling; a setting of the user's own could turn that off."""
    value = os.environ.get("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "")
    if value.lower() in ("", "false", "0"):
        return Finding("pickles", "ok", "never loaded")
    found = f"MLFLOW_ALLOW_PICKLE_DESERIALIZATION={value}: a model of MLflow's may run what it likes here"
    return Finding("pickles", "note", found, "unset it")


SERVICES: tuple[Callable[[], Finding], ...] = (
    check_token,
    check_cluster,
    check_s3,
    check_key_file,
    check_mlflow,
    check_pickles,
)
