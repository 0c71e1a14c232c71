"""The pages of docs/launching, followed to the letter, with stand-ins."""

import pathlib
import re
import shlex
import shutil
import subprocess

import pytest
import recording_tools

from dss_jax import main
from dss_jax.cli import gin_checks, gin_config

PAGES = ("docker", "gke", "skypilot", "slurm", "tpu_vm", "vertex")


def _commands(page: str) -> str:
  """The indented blocks of a page, as one program."""
  return "\n".join(re.findall(r"^    (.*)$", page, re.MULTILINE))


@pytest.fixture
def checkout(repository, tmp_path) -> pathlib.Path:
  """A checkout with nothing in it but what is launched with."""
  folder = tmp_path / "checkout"
  shutil.copytree(repository / "launch", folder / "launch")
  return folder


def _follow(page: str, checkout: pathlib.Path) -> list[list[str]]:
  tools = recording_tools.install(checkout.parent)
  git = ["git", "-c", "user.name=a", "-c", "user.email=a@localhost"]
  subprocess.run(["git", "init", "--quiet"], cwd=checkout, check=True)
  subprocess.run([*git, "add", "."], cwd=checkout, check=True)
  subprocess.run(
    [*git, "commit", "--quiet", "--allow-empty", "--message=x"],
    cwd=checkout,
    check=True,
  )
  recording_tools.will_say(checkout.parent, "NONE", "PROVISIONING", "ACTIVE")
  ended = subprocess.run(
    ["bash", "-euo", "pipefail", "-c", _commands(page)],
    env={
      "PATH": f"{tools}:/usr/bin:/bin",
      "HOME": str(checkout.parent),
      "USER": "me",
      "GIT_CONFIG_GLOBAL": "/dev/null",
      "DSS_POLL_SECONDS": "0",
    },
    cwd=checkout,
    stdin=subprocess.DEVNULL,
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert ended.returncode == 0, ended.stderr
  calls = recording_tools.calls(checkout.parent)
  for call in calls:
    # Neither words to be replaced, nor variables that are not set.
    assert not {"IMAGE", "BUCKET", "RUN", ""} & set(call), call
    assert not re.search(r"=$|//runs|gs:///", " ".join(call)), call
  return calls


@pytest.mark.parametrize("name", PAGES)
def test_a_page_leads_from_nothing_to_a_result(name, repository, checkout):
  page = (repository / "docs" / "launching" / f"{name}.md").read_text()
  calls = _follow(page, checkout)
  assert calls
  for file in filter(pathlib.Path.is_file, checkout.iterdir()):  # the page's
    assert not re.search(r"\b(IMAGE|BUCKET|RUN)\b", file.read_text()), file
  fetched = [
    call[-2:] for call in calls if call[:3] == ["gcloud", "storage", "rsync"]
  ]
  if name not in ("docker", "slurm"):
    assert ["gs://my-dss-runs/runs/taxonli", "runs/taxonli"] in fetched
  for argv in _trainings(calls):
    _check_flags(argv)


def _trainings(calls: list[list[str]]) -> list[list[str]]:
  """The flags of `dss-jax train` in what was called."""
  found = []
  for call in calls:
    if call[0] == "sbatch" and "launch/slurm.sbatch" in call:
      words = call[call.index("launch/slurm.sbatch") + 1 :]
      found.append([f"--gin.MODEL_DIR={words[0]}", *words[1:]])
    elif call[:2] == ["docker", "run"] and "train" in call:
      found.append(call[call.index("train") + 1 :])
    elif "tpu_worker.sh" in call[-1]:
      words = shlex.split(call[-1])
      at = next(i for i, word in enumerate(words) if "tpu_worker" in word)
      found.append([f"--gin.MODEL_DIR={words[at + 2]}", *words[at + 3 :]])
  return found


def _check_flags(argv: list[str]) -> None:
  args, rest = main.make_parser("train").parse_known_args(["train", *argv])
  assert all(flag.startswith("--gin.") for flag in rest), argv
  bindings = [gin_config.binding_from_flag(flag) for flag in rest]
  gin_config.parse(args.gin_file, bindings)
  gin_checks.check_complete("train.train")
  gin_config.clear()


def test_flags_are_found_and_checked(repository, checkout):
  """That the test above looks at something."""
  trainings = {}
  for name in ("slurm", "tpu_vm", "docker"):
    folder = checkout.parent / name
    shutil.copytree(checkout, folder / "checkout")
    page = (repository / "docs" / "launching" / f"{name}.md").read_text()
    trainings[name] = len(_trainings(_follow(page, folder / "checkout")))
  assert trainings == {"slurm": 2, "tpu_vm": 1, "docker": 1}


def test_the_page_of_this_machine_has_flags_that_there_are(repository):
  page = (repository / "docs" / "launching" / "local.md").read_text()
  lines = _commands(page).replace("\\\n", " ").splitlines()
  runs = [shlex.split(line) for line in lines if "launch/local.sh" in line]
  assert len(runs) == 2
  for words in runs:
    folder, *flags = words[words.index("launch/local.sh") + 1 :]
    _check_flags([f"--gin.MODEL_DIR={folder}", *flags])


def test_a_wrong_flag_or_a_missing_variable_is_seen(checkout):
  for command in (
    "gcloud compute tpus queued-resources create x --type=v5e-8",
    "gcloud storage rsync --recurse a b",
    "export A=b\n    docker push $B",
    "sky jobs start",
  ):
    with pytest.raises(AssertionError):
      _follow(f"    {command}\n", checkout)
    shutil.rmtree(checkout.parent / "tools")


def test_links_of_the_pages_lead_somewhere(repository):
  pages = repository / "docs" / "launching"
  names = {path.name for path in pages.glob("*.md")}
  assert names == {"README.md", "local.md", *(f"{name}.md" for name in PAGES)}
  for path in pages.glob("*.md"):
    for link in re.findall(r"\]\((?!https://)([^)#]+)", path.read_text()):
      assert (pages / link).resolve().exists(), (path.name, link)
  index = (pages / "README.md").read_text()
  launch = {path.name for path in (repository / "launch").iterdir()}
  launch.discard("Dockerfile.dockerignore")
  assert launch == {name for name in launch if f"`{name}`" in index}
