"""The files that clouds read: they fit together, and their owners take them."""

import json
import math
import os
import pathlib
import re
import shlex
import subprocess

import pytest
import yaml

from dss_jax import main
from dss_jax.cli import gin_checks, gin_config

# Chips of a TPU machine, by the end of its type.
CHIPS = {"1t": 1, "4t": 4, "8t": 8}


def _yaml(repository: pathlib.Path, name: str) -> list:
  text = (repository / "launch" / name).read_text(encoding="utf-8")
  return list(yaml.safe_load_all(text))


@pytest.fixture
def jobset(repository) -> dict:
  (found,) = _yaml(repository, "jobset.yaml")
  return found


@pytest.fixture
def vertex(repository) -> dict:
  return json.loads((repository / "launch" / "vertex.json").read_text())


@pytest.fixture
def sky(repository) -> dict:
  (found,) = _yaml(repository, "sky.yaml")
  return found


def _pod(jobset: dict) -> dict:
  (job,) = jobset["spec"]["replicatedJobs"]
  return job["template"]["spec"]["template"]["spec"]


def _commands(jobset: dict, vertex: dict, sky: dict) -> dict[str, list[str]]:
  """The arguments that each gives dss-jax."""
  (container,) = _pod(jobset)["containers"]
  (pool,) = vertex["workerPoolSpecs"]
  run = sky["run"].replace("\\\n", " ").splitlines()
  program, *words = shlex.split(
    next(line for line in run if line.startswith("exec "))
  )[1:]
  assert program == ".venv/bin/dss-jax"
  at = words.index("$FLAGS")
  words[at : at + 1] = shlex.split(sky["envs"]["FLAGS"])
  words = [
    re.sub("=.*", "=10.0.0.1:8476", word)
    if word.startswith("--coordinator")
    else word.replace("$SKYPILOT_NUM_NODES", "1").replace(
      "$SKYPILOT_NODE_RANK", "0"
    )
    for word in words
  ]
  return {
    "jobset.yaml": container["args"],
    "vertex.json": pool["containerSpec"]["args"],
    "sky.yaml": words,
  }


def test_dss_jax_takes_their_flags(jobset, vertex, sky):
  for name, argv in _commands(jobset, vertex, sky).items():
    args, rest = main.make_parser("train").parse_known_args(argv)
    assert args.mode == "train"
    assert all(flag.startswith("--gin.") for flag in rest), name
    bindings = [gin_config.binding_from_flag(flag) for flag in rest]
    gin_config.parse(args.gin_file, bindings)
    gin_checks.check_complete("train.train")
    assert rest[-1].endswith(("/runs/RUN", "/runs/$RUN")), name
  gin_config.clear()


def test_a_slice_has_as_many_machines_as_its_topology_says(jobset, repository):
  (job,) = jobset["spec"]["replicatedJobs"]
  spec = job["template"]["spec"]
  pod = _pod(jobset)
  topology = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
  (container,) = pod["containers"]
  chips = int(container["resources"]["limits"]["google.com/tpu"])
  machines = math.prod(map(int, topology.split("x"))) // chips
  assert spec["parallelism"] == spec["completions"] == machines
  # The page makes such machines, and the queue lets one slice in.
  page = (repository / "docs" / "launching" / "gke.md").read_text()
  (machine,) = re.findall(r"--machine-type=ct\S*-(\dt) ", page)
  assert CHIPS[machine] == chips
  assert f"--tpu-topology={topology} " in page
  assert f"--max-nodes={machines}\n" in page
  _, queue, local = _yaml(repository, "kueue.yaml")
  (group,) = queue["spec"]["resourceGroups"]
  assert group["flavors"][0]["resources"] == [
    {"name": "google.com/tpu", "nominalQuota": machines * chips}
  ]
  name = jobset["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]
  assert local["metadata"]["name"] == name


def test_a_jobset_starts_again_what_asks_for_it(jobset, sky):
  (rule,) = jobset["spec"]["failurePolicy"]["rules"]
  assert rule["action"] == "FailJobSet"
  assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
  (job,) = jobset["spec"]["replicatedJobs"]
  spec = job["template"]["spec"]
  (failing,) = spec["podFailurePolicy"]["rules"]
  (container,) = _pod(jobset)["containers"]
  assert failing["onExitCodes"] == {
    "containerName": container["name"],
    "operator": "In",
    "values": [1, 2, 3],
  }
  # Kubernetes takes a policy for pods that it does not start again itself.
  assert _pod(jobset)["restartPolicy"] == "Never"
  assert spec["backoffLimit"] == 0
  assert sky["resources"]["job_recovery"]["recover_on_exit_codes"] == [75, 143]


def test_checkpoints_of_any_size_can_be_staged(jobset):
  """More than 5 GiB on a machine's disk would have the pod evicted."""
  (job,) = jobset["spec"]["replicatedJobs"]
  notes = job["template"]["spec"]["template"]["metadata"]["annotations"]
  assert notes["gke-gcsfuse/ephemeral-storage-limit"] == "0"


def test_every_machine_gets_the_versions_that_were_tested(repository):
  for name in ("Dockerfile", "sky.yaml", "tpu_worker.sh"):
    text = (repository / "launch" / name).read_text().replace("\\\n", " ")
    installs = [line for line in text.splitlines() if "pip install" in line]
    installs = [line for line in installs if "install --quiet uv" not in line]
    assert installs, name
    for line in installs:
      assert re.search(r"--constraint \S*requirements/locked.txt", line), line


def test_containers_are_not_roots_and_get_signals(jobset, repository):
  text = (repository / "launch" / "Dockerfile").read_text(encoding="utf-8")
  stages = re.split(r"^FROM ", text, flags=re.MULTILINE)[1:]
  names = [re.match(r"\S+ AS (\w+)", stage)[1] for stage in stages]  # type: ignore[index]
  assert names == ["base", "tpu", "cuda13", "serve"]
  user = _pod(jobset)["securityContext"]["runAsUser"]
  for name, stage in zip(names, stages, strict=True):
    if name != "base":
      assert f"\nUSER {user}\n" in stage
      assert f"/source[{name}]" in stage
    for entry in re.findall("^ENTRYPOINT (.*)$", stage, re.MULTILINE):
      assert json.loads(entry)[:3] == ["tini", "--", "dss-jax"]
  (entry,) = re.findall("^ENTRYPOINT (.*serve.*)$", text, re.MULTILINE)
  argv = [*json.loads(entry)[3:], "--model_dir=/runs/x"]
  args = main.make_parser("serve").parse_args(argv)
  assert (args.host, args.port) == ("0.0.0.0", 8000)


def test_an_image_gets_all_that_an_installation_needs(repository):
  """`setup.py` would miss what the ignore file hides."""
  lines = (repository / "launch" / "Dockerfile.dockerignore").read_text()
  kept = {line[1:] for line in lines.splitlines() if line.startswith("!")}
  assert all((repository / name).exists() for name in kept)
  manifest = (repository / "MANIFEST.in").read_text()
  needed = {"dss_jax", "gin", "tasks", "pyproject.toml", "setup.py"}
  needed |= {"README.md", "LICENSE", "NOTICE", "MANIFEST.in"}
  needed |= {"requirements/locked.txt"}
  assert kept == needed
  assert "gin" in manifest


# ------------------------------------------------------- by their owners' tools


def _tool(name: str) -> str:
  folder = os.environ.get("DSS_LAUNCH_TOOLS")
  if not folder:
    pytest.skip("DSS_LAUNCH_TOOLS is not set; see requirements/launch.txt")
  path = pathlib.Path(folder).resolve() / name
  assert path.exists(), f"{path} is missing; see requirements/launch.txt"
  return str(path)


def _check(*command: object) -> None:
  ended = subprocess.run(
    [str(word) for word in command], capture_output=True, text=True, timeout=300
  )
  assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.launch_tools
def test_shellcheck_finds_nothing(repository):
  launch = repository / "launch"
  files = [*launch.glob("*.sh"), *launch.glob("*.sbatch")]
  _check(_tool("shellcheck"), *files)


@pytest.mark.launch_tools
def test_hadolint_finds_nothing(repository):
  _check(_tool("hadolint"), repository / "launch" / "Dockerfile")


VERTEX = """
import json, sys
from google.cloud.aiplatform_v1.types import CustomJob
spec = json.load(open(sys.argv[1]))
job = CustomJob.from_json(json.dumps({"displayName": "x", "jobSpec": spec}))
assert job.job_spec.scheduling.strategy.name == "SPOT"
assert job.job_spec.worker_pool_specs[0].machine_spec.accelerator_count == 1
spec["workerPoolSpec"] = spec.pop("workerPoolSpecs")
try:
  CustomJob.from_json(json.dumps({"displayName": "x", "jobSpec": spec}))
except Exception as error:
  assert "workerPoolSpec" in str(error), error
else:
  raise AssertionError("a wrong field is taken")
"""

SKY = """
import sys, jsonschema, yaml
from sky.utils import schemas
task = yaml.safe_load(open(sys.argv[1]))
jsonschema.validate(task, schemas.get_task_schema())
jsonschema.validate(task["resources"], schemas.get_resources_schema())
import sky
values = [("BUCKET", "my-bucket"), ("RUN", "r")]
sky.Task.from_yaml_config(task, env_overrides=values)
"""


@pytest.mark.launch_tools
@pytest.mark.parametrize(
  ("program", "file"), [(VERTEX, "vertex.json"), (SKY, "sky.yaml")]
)
def test_the_service_takes_the_file(program, file, repository, monkeypatch):
  python = _tool("python")
  monkeypatch.delenv("PYTHONPATH", raising=False)
  _check(python, "-c", program, repository / "launch" / file)
