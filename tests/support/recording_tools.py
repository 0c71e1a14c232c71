"""Stand-ins for the clouds' and schedulers' commands: they record, and refuse.

Each writes its arguments as a line of JSON. `gcloud`, `sky` and Slurm's refuse
flags that the real ones do not have; the tables are those of their `--help`
(Google Cloud SDK 528, SkyPilot 0.14.1, Slurm 25).
"""

from __future__ import annotations

import json
import os
import pathlib
import sys

RECORD = "calls.jsonl"
STATES = "states.json"

_BUCKET = {
  "enable-hierarchical-namespace",
  "location",
  "soft-delete-duration",
  "uniform-bucket-level-access",
}
_SSH = {"zone", "worker"}
_CLUSTER = {"location", "quiet"}
FLAGS: dict[str, set[str]] = {
  "gcloud config set": set(),
  "gcloud config get": set(),
  "gcloud services enable": set(),
  "gcloud projects add-iam-policy-binding": {"condition", "member", "role"},
  "gcloud projects describe": {"format"},
  "gcloud auth configure-docker": {"quiet"},
  "gcloud auth application-default login": set(),
  "gcloud artifacts repositories add-iam-policy-binding": {
    "location",
    "member",
    "role",
  },
  "gcloud artifacts repositories create": {"repository-format", "location"},
  "gcloud storage buckets create": _BUCKET,
  "gcloud artifacts repositories delete": {"location", "quiet"},
  "gcloud logging read": {"format", "freshness", "order"},
  "gcloud storage buckets add-iam-policy-binding": {"role", "member"},
  "gcloud storage rm": {"recursive"},
  "gcloud storage rsync": {"recursive"},
  "gcloud compute tpus accelerator-types list": {"zone"},
  "gcloud compute tpus queued-resources list": {"zone"},
  "gcloud compute tpus queued-resources describe": {"zone", "format"},
  "gcloud compute tpus queued-resources delete": {"zone", "force", "quiet"},
  "gcloud compute tpus queued-resources create": {
    "accelerator-type",
    "node-id",
    "runtime-version",
    "scopes",
    "spot",
    "zone",
  },
  "gcloud compute tpus tpu-vm ssh": _SSH | {"command"},
  "gcloud compute tpus tpu-vm scp": _SSH,
  "gcloud container clusters create": {
    "addons",
    "location",
    "machine-type",
    "num-nodes",
    "workload-pool",
  },
  "gcloud container clusters get-credentials": _CLUSTER,
  "gcloud container clusters delete": _CLUSTER,
  "gcloud container node-pools create": {
    "cluster",
    "enable-autoscaling",
    "location",
    "machine-type",
    "max-nodes",
    "min-nodes",
    "num-nodes",
    "spot",
    "tpu-topology",
  },
  "gcloud ai custom-jobs create": {"region", "display-name", "config"},
  "gcloud ai custom-jobs list": {
    "filter",
    "format",
    "limit",
    "region",
    "sort-by",
  },
  "gcloud ai custom-jobs stream-logs": {"region"},
  "gcloud ai custom-jobs cancel": {"region"},
  "kubectl apply": {"filename", "server-side"},
  "kubectl delete": {"filename"},
  "kubectl create serviceaccount": set(),
  "kubectl get": set(),
  "kubectl logs": {"follow", "container", "selector", "tail"},
  "kubectl wait": {"all", "all-namespaces", "for", "timeout"},
  "docker build": {"file", "platform", "tag", "target"},
  "docker push": set(),
  "docker run": {
    "detach",
    "env",
    "gpus",
    "name",
    "publish",
    "rm",
    "user",
    "volume",
  },
  "docker stop": {"t"},  # its long name has changed
  "sky check": set(),
  "sky jobs launch": {"env", "name", "yes"},
  "sky jobs queue": set(),
  "sky jobs logs": {"name"},
  "sky jobs cancel": {"name", "yes"},
  "sbatch": {
    "array",
    "gpus-per-node",
    "nodes",
    "ntasks-per-node",
    "time",
  },
  "squeue": {"me"},
  "scancel": {"me", "name"},
  "scontrol requeue": set(),
  "srun": {"cpus-per-task", "kill-on-bad-exit"},
}
# What follows the first plain argument belongs to another program.
_OTHERS_FOLLOW = ("sbatch", "srun", "docker run")


# These have files to work on here, or go on for ever.
_SHELL = {
  "tail": """case "$*" in *--follow*) exit 0 ;; esac; exec /usr/bin/tail "$@" """,
  # An environment whose programs are not called.
  "python3": """
[ "$1 $2" = "-m venv" ] || exit 2
mkdir -p "$3/bin"
for name in pip python; do
  printf '#!/bin/sh\\n' > "$3/bin/$name"
  chmod +x "$3/bin/$name"
done""",
}


def install(folder: pathlib.Path) -> pathlib.Path:
  """Makes a folder of stand-ins, to be put first on PATH."""
  tools = folder / "tools"
  tools.mkdir()
  names = {command.split()[0] for command in FLAGS}
  program = f'exec {sys.executable} {__file__} {folder} NAME "$@"'
  scripts = {name: program.replace("NAME", name) for name in names} | _SHELL
  for name, script in scripts.items():
    tool = tools / name
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
  return tools


def calls(folder: pathlib.Path) -> list[list[str]]:
  """What was called since the last time."""
  record = folder / RECORD
  lines = record.read_text().splitlines() if record.exists() else []
  record.unlink(missing_ok=True)
  return [json.loads(line) for line in lines]


def will_say(folder: pathlib.Path, *states: str) -> None:
  """The states of the slice that gcloud will say, one a time; the last stays."""
  (folder / STATES).write_text(json.dumps(states))


def _answer(folder: pathlib.Path, command: str) -> int:
  """Says what the real command would, where scripts read it."""
  if command == "gcloud compute tpus queued-resources describe":
    states = folder / STATES
    now, *later = (
      json.loads(states.read_text()) if states.exists() else ["NONE"]
    )
    if later:
      states.write_text(json.dumps(later))
    if now == "UNREACHABLE":
      print("ERROR: gcloud crashed (TransportError)", file=sys.stderr)
      return 1
    if now == "NONE":
      print("ERROR: (gcloud) NOT_FOUND: was not found", file=sys.stderr)
      return 1
    if now == "DENIED":
      print("ERROR: (gcloud) PERMISSION_DENIED", file=sys.stderr)
      return 1
    print("WARNING: an update is available", file=sys.stderr)
    print(now)
  elif command == "gcloud projects describe":
    print("123456789")
  elif command == "gcloud config get":
    print("my-project")
  elif command == "gcloud ai custom-jobs list":
    print("projects/123456789/locations/us-central1/customJobs/42")
  elif command == "srun":
    for name in filter(None, [os.environ.get("SRUN_SAVES")]):
      pathlib.Path(name).mkdir(parents=True)
    return int(os.environ.get("SRUN_STATUS", "0"))
  return 0


def main(folder: pathlib.Path, words: list[str]) -> int:
  with open(folder / RECORD, "a") as record:
    record.write(json.dumps(words) + "\n")
  command = max(
    (c for c in FLAGS if words[: len(c.split())] == c.split()),
    key=len,
    default=None,
  )
  if command is None:
    print(f"no such command: {words}", file=sys.stderr)
    return 2
  for word in words[len(command.split()) :]:
    if not word.startswith("-"):
      if command in _OTHERS_FOLLOW:
        break
      continue
    flag = word.partition("=")[0].lstrip("-")
    # One of a letter follows one dash.
    if flag not in FLAGS[command] or word.startswith("--") != (len(flag) > 1):
      print(f"{command} has no flag {word}", file=sys.stderr)
      return 2
  return _answer(folder, command)


if __name__ == "__main__":
  sys.exit(main(pathlib.Path(sys.argv[1]), sys.argv[2:]))
