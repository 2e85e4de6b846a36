"""The lab without Ray: separate hosts that can be killed and cut, secrets that stay where they belong."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.lab import fabric, one_machine, programs
from cluster.lab.command import main, runs
from cluster.lab.place import DESK, HEAD, MLFLOW, S3, Lab, LabError


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    made = Lab(tmp_path / "lab", hosts=2, cpus=1)
    made.save()
    return made


@pytest.fixture
def separate(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    """The lab's network, under names that no other lab has."""
    if why_not := fabric.reason_against():
        pytest.skip(f"SEPARATE HOSTS ARE NOT TESTED: {why_not}")
    monkeypatch.setattr(fabric, "PREFIX", "rgt")
    monkeypatch.setattr(fabric, "SWITCH", "rgt-switch")
    monkeypatch.setattr(fabric, "OWNER", lab.folder / "owner")
    fabric.build(lab)
    yield lab
    for host in lab.names:
        lab.kill_process(host)
    fabric.tear_down()


def test_whose_the_namespaces_are_is_known(lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    owner = tmp_path / "owner"
    monkeypatch.setattr(fabric, "OWNER", owner)
    assert fabric.other_lab(lab.folder) == ""
    owner.write_text(str(lab.folder))
    assert fabric.other_lab(lab.folder) == "" and fabric.other_lab(tmp_path / "mine") == str(lab.folder)
    (lab.folder / "lab.json").unlink()
    assert fabric.other_lab(tmp_path / "mine") == "", "one whose folder is gone is no lab"


def start_server(lab: Lab, host: str) -> None:
    environment = programs.plain_environment(lab, host)
    code = "import http.server as h; h.ThreadingHTTPServer(('', 80), h.SimpleHTTPRequestHandler).serve_forever()"
    lab.note_process(host, fabric.start(lab, host, [sys.executable, "-c", code], environment))


def answers(lab: Lab, host: str, patience: float) -> bool:
    code = f"import urllib.request as u; u.urlopen('http://{lab.address(host)}', timeout=0.5)"
    deadline = time.monotonic() + patience
    while True:
        done = subprocess.run(fabric.at(DESK, [sys.executable, "-c", code]), capture_output=True, check=False)
        if done.returncode == 0 or time.monotonic() > deadline:
            return done.returncode == 0


def test_hosts_are_separate_can_be_cut_and_killed(separate: Lab) -> None:
    lab = separate
    start_server(lab, "h1")
    assert answers(lab, "h1", 20)
    assert not answers(lab, "h2", 0)
    fabric.cut("h1")
    assert fabric.is_cut("h1")
    assert not answers(lab, "h1", 0)
    assert lab.process("h1")  # it knows nothing of it
    fabric.mend("h1")
    assert answers(lab, "h1", 10)
    assert lab.kill_process("h1")
    assert not lab.process("h1")
    assert not answers(lab, "h1", 0)
    assert not lab.kill_process("h1")


def test_a_host_sees_its_own_processes_and_names_only(separate: Lab) -> None:
    lab = separate
    script = "echo $(hostname) $(ls -d /proc/[0-9]* | wc -l) $(ls /tmp/ray | wc -l); cat /etc/hosts"
    pid = fabric.start(lab, "h2", ["bash", "-c", script], programs.plain_environment(lab, "h2"))
    lab.note_process("h2", pid)
    deadline = time.monotonic() + 20
    while lab.process("h2") and time.monotonic() < deadline:
        time.sleep(0.05)
    first, *names = lab.log("h2").read_text().splitlines()
    host, processes, files = first.split()
    assert (host, files) == ("h2", "0")
    assert int(processes) < 6
    assert f"{lab.address(HEAD)} head" in names
    with pytest.raises(FileNotFoundError):  # this machine's own network has none of it
        (Path("/sys/class/net/br0") / "address").read_text()


def test_orphans_do_not_stay_as_zombies_and_a_host_ends_with_its_command(separate: Lab, tmp_path: Path) -> None:
    # A command that does not wait for what it did not start itself, unlike a shell.
    code = f"""if True:
        import pathlib, subprocess, time
        subprocess.run(["sh", "-c", "sleep 0.1 &"])
        time.sleep(1)
        states = [file.read_text().rpartition(")")[2].split()[0] for file in pathlib.Path("/proc").glob("[0-9]*/stat")]
        pathlib.Path({str(tmp_path / "zombies")!r}).write_text(str(states.count("Z")))
        time.sleep(0.5)
    """
    separate.note_process("h1", fabric.start(separate, "h1", [sys.executable, "-c", code], dict(os.environ)))
    deadline = time.monotonic() + 20
    while separate.process("h1") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not separate.process("h1")
    assert (tmp_path / "zombies").read_text().strip() == "0"


def test_what_the_hosts_wrote_is_kept_until_the_next_lab(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fabric, "tear_down", lambda: None)
    monkeypatch.setattr(one_machine, "stop", lambda _: None)
    lab.secret("token")
    lab.log("h1").write_text("what it said")
    assert main(["--folder", str(lab.folder), "down", "--keep"]) == 0
    assert sorted(path.name for path in lab.folder.rglob("*") if path.is_file()) == ["ended.json", "log"]
    monkeypatch.setattr(fabric, "reason_against", lambda: "")
    monkeypatch.setattr(fabric, "other_lab", lambda _: "")
    monkeypatch.setattr(fabric, "build", lambda _: sys.exit("far enough"))
    with pytest.raises(SystemExit, match="far enough"):
        main(["--folder", str(lab.folder), "up"])
    assert [path.name for path in lab.folder.rglob("*") if path.is_file()] == ["lab.json"]
    assert main(["--folder", str(lab.folder), "down"]) == 0
    assert not lab.folder.exists()


def test_nobody_elses_folder_is_cleared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "hosts").mkdir()
    (tmp_path / "hosts" / "mine").write_text("dear to me")
    monkeypatch.setattr(fabric, "reason_against", lambda: "")
    monkeypatch.setattr(fabric, "other_lab", lambda _: "")
    monkeypatch.setattr(fabric, "build", lambda _: sys.exit("far enough"))
    with pytest.raises(SystemExit, match="far enough"):
        main(["--folder", str(tmp_path), "up"])
    assert (tmp_path / "hosts" / "mine").is_file()


def test_addresses_and_names(lab: Lab) -> None:
    addresses = [lab.address(host) for host in [*lab.names, DESK]]
    assert len(set(addresses)) == len(addresses) == 6
    assert Lab.load(lab.folder) == lab
    assert Lab(lab.folder, 2, 1, separate=False).address("h1") == "127.0.0.1"
    with pytest.raises(LabError, match="use one of s3, mlflow, head, h1, h2"):
        lab.check("h3")


def test_secrets_are_their_owners_alone_and_stand_on_no_command_line(lab: Lab) -> None:
    values = {lab.secret(name) for name in ("ray_token", "s3_key", "mlflow_password", "mlflow_cookies")}
    assert len(values) == 4
    assert all(len(value) >= 32 for value in values)
    assert lab.secret("s3_key") == lab.secret("s3_key")
    for file in (lab.folder / "secrets").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(lab.folder.stat().st_mode) == 0o700
    for host in lab.names:
        words = " ".join(programs.commands(lab, host)[0])
        assert not [value for value in values if value in words]


def test_everybody_must_know_the_token_and_nobody_more_than_needed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "has_passwords", lambda: True)
    monkeypatch.setenv("SOMEBODYS_SECRET", "x")
    for host in (HEAD, "h1"):
        words, environment = programs.commands(lab, host)
        assert environment["RAY_AUTH_MODE"] == "token"
        assert f"--node-ip-address={lab.address(host)}" in words
        assert environment["RAY_JOB_STOP_WAIT_TIME_S"] == "60"
        assert "SOMEBODYS_SECRET" not in environment
        assert "MLFLOW_FLASK_SERVER_SECRET_KEY" not in environment
    words, environment = programs.commands(lab, MLFLOW)
    assert words[words.index("--app-name") + 1] == "basic-auth"
    assert environment["MLFLOW_AUTH_ADMIN_PASSWORD"] == lab.secret("mlflow_password")
    assert f"sqlite:///{lab.own(MLFLOW)}/users.db" in Path(environment["MLFLOW_AUTH_CONFIG_PATH"]).read_text()
    words, environment = programs.commands(lab, S3)
    assert "-master.telemetry=false" in words
    assert f"-ip.bind={lab.address(S3)}" in words
    assert "RAY_AUTH_TOKEN_PATH" not in environment
    assert programs.desk_environment(lab)["RAY_API_SERVER_ADDRESS"] == f"http://{lab.address(HEAD)}:8265"


def test_a_host_that_comes_back_listens_elsewhere(lab: Lab) -> None:
    words = " ".join(programs.commands(lab, "h1")[0])
    assert "--runtime-env-agent-port=" in words, "the agents' are given"
    assert "--node-manager-port" not in words, "the head gives up a host that comes back on a port that was gone"


def test_a_process_is_not_taken_for_a_later_one_with_its_number(lab: Lab) -> None:
    process = subprocess.Popen(["sleep", "60"])
    lab.note_process("h1", process.pid)
    assert lab.process("h1") == process.pid
    (lab.own("h1") / "pid").write_text(f"{process.pid} 1")
    assert lab.process("h1") == 0
    assert not lab.kill_process("h1")
    process.kill()
    process.wait()


def test_words_and_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = ["--folder", str(tmp_path / "none")]
    for words in (["status"], ["down"], ["kill", "h1"], ["exec", "--", "true"], ["env"]):
        assert main([*place, *words]) == 3
        assert "no lab in" in capsys.readouterr().err
    assert main([*place, "up", "--hosts", "0"]) == 3
    with pytest.raises(SystemExit):
        main(["nonsense"])
    Lab(tmp_path / "one", 2, 1, separate=False).save()
    place = ["--folder", str(tmp_path / "one")]
    assert main([*place, "cut", "h1"]) == 3
    assert "run the lab as root" in capsys.readouterr().err
    assert main([*place, "heal", "h1"]) == 3
    assert main([*place, "up"]) == 3
    assert "`python cluster/lab down` ends it" in capsys.readouterr().err


def test_without_root_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fabric.os, "geteuid", lambda: 1000)
    assert fabric.reason_against() == "separate hosts need root"
    assert callable(one_machine.start)


def test_a_lab_whose_mlflow_could_not_store_artifacts_does_not_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(programs, "program", lambda name: name)
    monkeypatch.setattr(programs, "has_artifacts", lambda: False)
    assert main(["--folder", str(tmp_path / "lab"), "up", "--shared"]) == 3
    assert "extra mlflow-server" in capsys.readouterr().err
    assert not (tmp_path / "lab").exists()


def test_another_users_sockets_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "seaweedfs-master-grpc-19333.sock").touch()
    monkeypatch.setattr(programs, "program", lambda name: name)
    monkeypatch.setattr(programs, "SOCKETS", tmp_path)
    monkeypatch.setattr(programs.os, "geteuid", lambda: 12345)
    assert main(["--folder", str(tmp_path / "lab"), "up", "--shared"]) == 3
    assert "another user's SeaweedFS has left" in capsys.readouterr().err
    monkeypatch.setattr(programs.os, "geteuid", lambda: (tmp_path / "seaweedfs-master-grpc-19333.sock").stat().st_uid)
    assert programs.sockets_in_the_way() == []


def test_a_node_of_a_shared_machine_runs_until_it_is_killed(lab: Lab) -> None:
    shared = Lab(lab.folder, 2, 1, separate=False)
    process = subprocess.Popen(["sleep", "60"])
    try:
        (lab.folder / "nodes.json").write_text(json.dumps({"h1": process.pid}))
        assert runs(shared, "h1") and not runs(shared, "h2")
        one_machine.kill(shared, "h1")
        # not waited for: what is left is a zombie
        deadline = time.monotonic() + 30
        while runs(shared, "h1"):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        with pytest.raises(LabError, match="dead already"):
            one_machine.kill(shared, "h1")
    finally:
        process.kill()
        process.wait()


def test_it_runs_as_a_folder_from_anywhere(tmp_path: Path) -> None:
    script = Path(__file__).resolve().parents[3] / "cluster" / "lab"
    done = subprocess.run([sys.executable, str(script), "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0
    assert "kill h1" in done.stdout
