"""Ask from the desk what answers: one JSON line. Run by the lab with the desk's network; standard library only."""

from __future__ import annotations

import json
import os
import sys
import urllib.error
import urllib.request


def answers(url: str, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    """HTTP status (0: no answer) and body."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers or {}), timeout=3) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, b""
    except OSError:
        return 0, b""


def main() -> None:
    head, s3, mlflow = sys.argv[1:4]
    with open(os.environ["RAY_AUTH_TOKEN_PATH"]) as file:
        token = {"Authorization": f"Bearer {file.read().strip()}"}
    status, body = answers(f"{head}/nodes?view=summary", token)
    nodes: dict[str, str] = {}
    for node in json.loads(body)["data"]["summary"] if status == 200 else ():
        state = node["raylet"]
        name = state.get("labels", {}).get("host") or state.get("nodeManagerHostname", "?")
        if nodes.get(name) != "ALIVE":  # an earlier life of the host does not hide this one
            nodes[name] = state["state"]
    up = {"head": answers(f"{head}/api/gcs_healthz")[0] == 200, "s3": answers(s3)[0] in (200, 403)}
    up["mlflow"] = answers(f"{mlflow}/health")[0] == 200
    print(json.dumps({**up, "nodes": nodes}))  # noqa: T201


if __name__ == "__main__":
    main()
