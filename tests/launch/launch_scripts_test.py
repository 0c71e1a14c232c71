"""The scripts of launch/, with stand-ins for the commands that they call."""

import configparser
import os
import pathlib
import shlex
import subprocess
import sys
import time

import pytest
import recording_tools

FLAGS = ("--gin_file=runs/train.gin", "--gin.NAME='a b'")
SETTINGS = {
  "DSS_TPU": "dss",
  "DSS_ZONE": "us-west4-a",
  "DSS_TPU_TYPE": "v5litepod-8",
  "DSS_BUCKET": "runs-of-mine",
  "DSS_POLL_SECONDS": "0",
}
QUEUED = ["gcloud", "compute", "tpus", "queued-resources"]


def _scripts(repository: pathlib.Path) -> list[pathlib.Path]:
  launch = repository / "launch"
  return sorted([*launch.glob("*.sh"), *launch.glob("*.sbatch")])


class Desk:
  """A folder to work in, and a checkout, with stand-ins on PATH."""

  def __init__(self, folder: pathlib.Path, checkout: pathlib.Path):
    self.folder, self.checkout = folder, checkout
    self.tools = recording_tools.install(folder)
    self.environment = {
      "PATH": f"{self.tools}:/usr/bin:/bin",
      "HOME": str(folder),
      "GIT_CONFIG_GLOBAL": "/dev/null",
    }

  def call(self, *command: str, **variables: str):
    return subprocess.run(
      [str(self.checkout / "launch" / command[0]), *command[1:]],
      env=self.environment | variables,
      cwd=self.folder,
      capture_output=True,
      text=True,
      timeout=120,
    )

  def tpu_vm(self, *arguments: str, **variables: str):
    return self.call("tpu_vm.sh", *arguments, **SETTINGS | variables)

  def calls(self) -> list[list[str]]:
    return recording_tools.calls(self.folder)

  def will_say(self, *states: str) -> None:
    recording_tools.will_say(self.folder, *states)


@pytest.fixture
def desk(repository, tmp_path) -> Desk:
  return Desk(tmp_path, repository)


def test_bash_can_read_them(repository):
  scripts = _scripts(repository)
  assert len(scripts) >= 5
  for script in scripts:
    subprocess.run(["bash", "-n", script], check=True)
    assert os.access(script, os.X_OK) or script.suffix == ".sbatch"
    text = script.read_text(encoding="utf-8")
    assert "set -euo pipefail" in text


# ------------------------------------------------------------------ tpu_vm.sh


@pytest.mark.parametrize(
  ("before", "verbs"),
  [
    (("NONE", "WAITING_FOR_RESOURCES", "ACTIVE"), ["create"]),
    (("PROVISIONING", "ACTIVE"), []),
    (("ACTIVE",), []),
    (("SUSPENDED", "ACTIVE"), ["delete", "create"]),
    (("FAILED", "ACCEPTED", "ACTIVE"), ["delete", "create"]),
    # What is going away is waited for.
    (("DELETING", "DELETING", "NONE", "CREATING", "ACTIVE"), ["create"]),
    (("SUSPENDING", "SUSPENDED", "ACTIVE"), ["delete", "create"]),
    # A look that fails ends no wait.
    (("PROVISIONING", "UNREACHABLE", "UNREACHABLE", "ACTIVE"), []),
  ],
)
def test_a_slice_is_made_once(desk, before, verbs):
  desk.will_say(*before)
  ended = desk.tpu_vm("create")
  assert ended.returncode == 0, ended.stderr
  assert "it costs money until" in ended.stdout
  made = [call for call in desk.calls() if call[4] != "describe"]
  assert [call[4] for call in made] == verbs
  if verbs:
    assert made[-1] == [
      *QUEUED,
      *("create", "dss", "--node-id=dss", "--zone=us-west4-a"),
      "--accelerator-type=v5litepod-8",
      "--runtime-version=v2-alpha-tpuv5-lite",
      "--scopes=https://www.googleapis.com/auth/cloud-platform",
    ]


def test_a_slice_that_fails_or_cannot_be_seen_is_an_error(desk):
  desk.will_say("NONE", "FAILED")
  ended = desk.tpu_vm("create")
  assert ended.returncode == 1
  assert "dss is FAILED; see gcloud" in ended.stderr
  desk.will_say("NONE", "PROVISIONING", "SUSPENDED")
  ended = desk.tpu_vm("create")
  assert ended.returncode == 1
  assert "dss is SUSPENDED; see gcloud" in ended.stderr
  desk.will_say("NONE", "PROVISIONING", "DELETING")
  ended = desk.tpu_vm("create")
  assert ended.returncode == 1
  assert "dss was deleted meanwhile" in ended.stderr
  desk.will_say("DENIED")
  ended = desk.tpu_vm("create")
  assert ended.returncode == 1
  assert "PERMISSION_DENIED" in ended.stderr
  assert all("create" not in call for call in desk.calls()[-1:])


def test_spot_and_other_software_are_asked_for(desk):
  ended = desk.tpu_vm(
    "--dry_run",
    "create",
    DSS_SPOT="1",
    DSS_RUNTIME="mine",
    DSS_TPU_TYPE="v6e-8",
  )
  (line,) = ended.stdout.splitlines()
  assert shlex.split(line)[-3:] == [
    "--runtime-version=mine",
    "--scopes=https://www.googleapis.com/auth/cloud-platform",
    "--spot",
  ]
  assert desk.calls() == []


def test_a_run_is_copied_and_started_with_its_flags(desk, repository):
  if not (repository / ".git").exists():
    pytest.skip("not a git checkout")
  desk.will_say("ACTIVE")
  ended = desk.tpu_vm("run", "r-1", *FLAGS)
  assert ended.returncode == 0, ended.stderr
  _, copy, start = desk.calls()
  assert copy[:5] == ["gcloud", "compute", "tpus", "tpu-vm", "scp"]
  assert copy[6:] == ["dss:", "--zone=us-west4-a", "--worker=all"]
  assert not pathlib.Path(copy[5]).exists()  # removed when copied
  changes = subprocess.run(
    ["git", "-C", repository, "status", "--short"],
    capture_output=True,
    text=True,
    check=True,
  ).stdout
  warned = "tpu_vm.sh: not committed, and so not copied:\n" + changes
  assert ended.stderr.count(warned) == bool(changes)
  command = start[-1].removeprefix("--command=")
  words = shlex.split(command)
  assert words[words.index("bash") :] == [
    *("bash", "dss_jax/launch/tpu_worker.sh", "runs-of-mine", "r-1"),
    *FLAGS,
  ]


def test_a_dry_run_prints_what_a_run_calls(desk, repository):
  if not (repository / ".git").exists():
    pytest.skip("not a git checkout")
  for verb in (("run", "r-1", *FLAGS), ("stop",), ("logs",), ("fetch", "r-1")):
    desk.will_say("ACTIVE")
    printed = desk.tpu_vm("--dry_run", *verb).stdout.splitlines()
    assert desk.calls() == []
    assert desk.tpu_vm(*verb).returncode == 0
    called = [call for call in desk.calls() if "describe" not in call]
    words = [shlex.split(line) for line in printed]
    shown = [line for line in words if line[0] == "gcloud"]
    for calls in (called, shown):
      for call in calls:  # lies in a folder that is made for it
        call[:] = [
          word if "source.tar" not in word or word[0] == "-" else "SOURCE"
          for word in call
        ]
    assert shown == called


def test_a_slice_is_deleted_if_it_is_there(desk):
  desk.will_say("ACTIVE")
  assert desk.tpu_vm("delete").returncode == 0
  assert desk.calls()[-1] == [
    *(*QUEUED, "delete", "dss"),
    *("--zone=us-west4-a", "--force", "--quiet"),
  ]
  for states in (["NONE"], ["DELETING", "NONE"]):
    desk.will_say(*states)
    ended = desk.tpu_vm("delete")
    assert ended.returncode == 0
    assert ended.stdout.endswith("there is no dss in us-west4-a\n")
    assert [call[4] for call in desk.calls()] == ["describe"] * len(states)


@pytest.mark.parametrize(
  ("arguments", "variables", "message"),
  [
    (["fly"], {}, "the verb is 'fly'; it must be create, run"),
    (["create"], {"DSS_ZONE": ""}, "DSS_ZONE is not set"),
    (["create"], {"DSS_SPOT": "yes"}, "DSS_SPOT is 'yes'; it must be 0 or 1"),
    (["create"], {"DSS_TPU_TYPE": "tpu7x-8"}, "set DSS_RUNTIME"),
    # Or a dry run, asked for in the wrong place, would make or delete it.
    (["create", "--dry_run"], {}, "create takes no arguments, got '--dry_run'"),
    (["delete", "--dry_run"], {}, "delete takes no arguments, got '--dry_run'"),
    (["fetch", "r", "q"], {}, "fetch takes the name of a run alone"),
    (["run", "--gin_file=x"], {}, "run needs the name of a run"),
    (["run", "../x"], {}, "got '../x'"),
    (["fetch"], {}, "fetch needs the name of a run"),
    (["run", "r"], {}, "dss is PROVISIONING; "),
  ],
)
def test_what_cannot_be_done_is_refused(desk, arguments, variables, message):
  desk.will_say("PROVISIONING")
  ended = desk.tpu_vm(*arguments, **variables)
  assert ended.returncode == 2
  assert message in ended.stderr


# --------------------------------------------------------------- tpu_worker.sh

WORKER_TOOLS = {
  # Nothing is done as root: what would be written is kept for the test.
  "sudo": """
echo "$@" >> "$HOME/sudo.log"
if [ "$*" = "${REFUSED:-}" ]; then exit 1; fi
if [ "$1" = journalctl ]; then echo "what $2 says"; fi
if [ "$1" = tee ]; then cat > "$HOME/$(basename "$2")"; fi""",
  "systemctl": 'echo "${STATE:-inactive}"; exit 3',
  "gcsfuse": "",
  "uv": """
echo "$@" >> "$HOME/uv.log"
if [ "$1" = venv ]; then
  mkdir -p "$4/bin"; printf '#!/bin/sh\\n' > "$4/bin/python"
  chmod +x "$4/bin/python"
fi""",
}


@pytest.fixture
def worker(desk):
  (desk.folder / ".local" / "bin").mkdir(parents=True)
  for name, script in WORKER_TOOLS.items():
    folder = desk.tools if name != "uv" else desk.folder / ".local" / "bin"
    (folder / name).write_text(f"#!/bin/bash\n{script}\n")
    (folder / name).chmod(0o755)
  return desk


def _unit(path: pathlib.Path) -> configparser.ConfigParser:
  parser = configparser.ConfigParser(interpolation=None, strict=True)
  parser.optionxform = str  # type: ignore[assignment]
  parser.read(path)
  return parser


def test_a_worker_installs_mounts_and_starts_a_service(worker, repository):
  ended = worker.call("tpu_worker.sh", "my-bucket", "r-1", *FLAGS)
  assert ended.returncode == 0, ended.stderr
  home = worker.folder
  service = _unit(home / "dss-jax.service")
  bucket = _unit(home / "dss-bucket.service")
  assert bucket["Service"]["ExecStart"].endswith(
    "--enable-streaming-writes=false my-bucket /mnt/dss"
  )
  assert service["Unit"]["Requires"] == "dss-bucket.service"
  # 75, 130 and 143 ask for another start.
  assert service["Service"]["RestartPreventExitStatus"] == "1 2 3"
  assert service["Service"]["Restart"] == "on-failure"
  shell, script = service["Service"]["ExecStart"].split()
  assert shell == "/bin/bash"
  command = pathlib.Path(script).read_text().splitlines()[-1]
  assert shlex.split(command) == [
    *("exec", f"{home}/dss_jax-environment/bin/dss-jax", "train"),
    *("--multiprocess", "--gin.MODEL_DIR=/mnt/dss/runs/r-1", *FLAGS),
  ]
  assert (
    (home / "uv.log")
    .read_text()
    .splitlines()[-1]
    .endswith(
      f"--constraint {repository}/requirements/locked.txt"
      f" --reinstall-package dss_jax {repository}[tpu]"
    )
  )
  done = (home / "sudo.log").read_text().splitlines()
  assert done[-1] == "systemctl enable --quiet --now dss-jax"


def test_a_bucket_that_cannot_be_mounted_is_explained(worker):
  ended = worker.call(
    *("tpu_worker.sh", "my-bucket", "r", *FLAGS),
    REFUSED="systemctl restart dss-bucket",
  )
  assert ended.returncode == 1
  assert ended.stderr == (
    "the bucket my-bucket cannot be mounted:\nwhat --unit=dss-bucket says\n"
  )
  assert "enable" not in (worker.folder / "sudo.log").read_text()


def test_a_worker_keeps_the_run_that_is_going_on(worker):
  assert worker.call("tpu_worker.sh", "b", "r", *FLAGS).returncode == 0
  before = (worker.folder / "sudo.log").read_text()
  again = worker.call("tpu_worker.sh", "b", "r", *FLAGS, STATE="active")
  assert (again.returncode, again.stdout) == (
    0,
    "the run is going on already\n",
  )
  other = worker.call("tpu_worker.sh", "b", "q", *FLAGS, STATE="activating")
  assert other.returncode == 1
  assert "another run is going on here" in other.stderr
  assert (worker.folder / "sudo.log").read_text() == before


# ----------------------------------------------------------------------- Slurm

JOB = {"SLURM_JOB_ID": "77", "SLURM_CPUS_PER_TASK": "4", "PYTHON": "python"}


def _batch(desk: Desk, *command: str, **variables: str):
  return desk.call(
    *command, **JOB | {"SLURM_SUBMIT_DIR": str(desk.checkout)} | variables
  )


@pytest.fixture
def batch(desk):
  """`sbatch` runs a copy of the file."""
  for name in ("slurm.sbatch", "slurm_array.sbatch"):
    copy = desk.folder / "launch" / name
    copy.parent.mkdir(exist_ok=True)
    copy.write_bytes((desk.checkout / "launch" / name).read_bytes())
    copy.chmod(0o755)
  submitted, desk.checkout = desk.checkout, desk.folder
  return lambda *command, **variables: _batch(
    desk, *command, **{"SLURM_SUBMIT_DIR": str(submitted)} | variables
  )


@pytest.mark.parametrize(
  ("status", "restarts", "saves", "again"),
  [
    (0, 0, True, False),
    (2, 0, False, False),
    (75, 3, True, True),
    (75, 3, False, False),  # or it might go on so for ever
    (143, 0, False, True),
    (143, 50, True, False),
  ],
)
def test_slurm_queues_again_what_asks_for_it(
  batch, desk, status, restarts, saves, again
):
  ended = batch(
    "slurm.sbatch",
    "runs/a b",
    *FLAGS,
    SRUN_STATUS=str(status),
    SRUN_SAVES=str(desk.folder / "runs/a b/checkpoints/7") if saves else "",
    SLURM_RESTART_COUNT=str(restarts),
  )
  assert ended.returncode == status
  started, *after = desk.calls()
  assert started == [
    *("srun", "--kill-on-bad-exit=0", "--cpus-per-task=4"),
    *("python", "-m", "dss_jax.main", "train", "--cluster=slurm"),
    *("--gin.MODEL_DIR=runs/a b", *FLAGS),
  ]
  assert after == ([["scontrol", "requeue", "77"]] if again else [])


def test_slurm_wants_a_task_for_each_gpu(batch, desk):
  ended = batch("slurm.sbatch", "runs/a", SLURM_GPUS_ON_NODE="8")
  assert ended.returncode == 2
  assert "--gpus-per-node=8 --ntasks-per-node=8" in ended.stderr
  assert batch("slurm.sbatch", "--gin_file=x").returncode == 2
  assert desk.calls() == []
  both = {"SLURM_GPUS_ON_NODE": "8", "SLURM_NTASKS_PER_NODE": "8"}
  assert batch("slurm.sbatch", "runs/a", **both).returncode == 0


def test_tasks_of_an_array_share_a_sweep(batch, desk):
  array = {
    "SLURM_ARRAY_TASK_MIN": "0",
    "SLURM_ARRAY_TASK_MAX": "3",
    "SLURM_ARRAY_TASK_COUNT": "4",
    "SLURM_ARRAY_TASK_ID": "2",
  }
  ended = batch("slurm_array.sbatch", "my.gin", SRUN_STATUS="143", **array)
  assert ended.returncode == 143
  started, again = desk.calls()
  assert started[2:] == [
    *("python", "-m", "dss_jax.main", "sweep", "my.gin", "--shard=2/4"),
  ]
  assert again == ["scontrol", "requeue", "77"]
  gaps = array | {"SLURM_ARRAY_TASK_MAX": "6"}
  assert batch("slurm_array.sbatch", "my.gin", **gaps).returncode == 2


# -------------------------------------------------------------------- local.sh

# Notes its signal and ends with its number, as a run that has saved does.
TRAINER = """#!/bin/bash
if [ "$1" = -c ]; then exec REAL "$@"; fi
trap 'echo "$i term" >> "$HOME/signals"; exit 143' TERM
trap 'echo "$i int" >> "$HOME/signals"; exit 130' INT
i="${@: -1}"
echo "$i ${CUDA_VISIBLE_DEVICES-unset}" >> "$HOME/started"
[ -z "${STATUS:-}" ] || exit $((STATUS * ${i##*=}))
while true; do sleep 0.05; done
"""


@pytest.mark.parametrize(
  ("signal", "name", "status"), [(15, "term", 143), (2, "int", 130)]
)
def test_local_processes_all_get_one_signal(desk, signal, name, status):
  python = desk.folder / "python"
  python.write_text(TRAINER.replace("REAL", sys.executable))
  python.chmod(0o755)
  with subprocess.Popen(
    [desk.checkout / "launch" / "local.sh", "run"],
    env=desk.environment
    | {"PYTHON": str(python), "DSS_PROCESSES": "3", "DSS_DEVICE": "2,5,7"},
    cwd=desk.folder,
    start_new_session=True,
  ) as process:
    started = desk.folder / "started"
    try:
      while not started.exists() or started.read_text().count("\n") < 3:
        assert process.poll() is None
        time.sleep(0.02)
      process.send_signal(signal)
      assert process.wait(60) == status
    finally:
      process.kill()  # or leaving the block would wait for it
  lines = sorted(started.read_text().splitlines())
  assert lines == [
    "--process_index=0 2",
    "--process_index=1 5",
    "--process_index=2 7",
  ]
  signals = sorted((desk.folder / "signals").read_text().splitlines())
  assert signals == [f"--process_index={i} {name}" for i in range(3)]


def test_local_processes_end_with_the_worst_of_their_statuses(desk):
  python = desk.folder / "python"
  python.write_text(TRAINER.replace("REAL", sys.executable))
  python.chmod(0o755)
  ended = desk.call(
    "local.sh", "run", PYTHON=str(python), DSS_PROCESSES="3", STATUS="4"
  )
  assert ended.returncode == 8
  # The third ends as one that has lost the others: the cause comes first.
  ended = desk.call(
    "local.sh", "run", PYTHON=str(python), DSS_PROCESSES="3", STATUS="50"
  )
  assert ended.returncode == 50
  ended = desk.call("local.sh", "run", PYTHON=str(python), DSS_PROCESSES="no")
  assert ended.returncode == 2
  assert "DSS_PROCESSES is 'no'" in ended.stderr
  few = {"DSS_PROCESSES": "3", "DSS_DEVICE": "0,1"}
  ended = desk.call("local.sh", "run", PYTHON=str(python), **few)
  assert ended.returncode == 2
  assert "3 processes want a GPU each, and there are 2: 0,1" in ended.stderr
