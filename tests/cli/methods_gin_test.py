"""gin/methods: each file alone makes a run of its method, and survives config.gin."""

import pathlib

import pytest

from dss_jax.cli import gin_config
from dss_jax.data.pairs import subtasks

FILES = ["models/taxonli.gin", "runs/train.gin", "data/svamp.gin"]
BINDINGS = ["MODEL_DIR = 'x'", "TRAIN_STEPS = 3"]


@pytest.fixture(autouse=True)
def _forget(monkeypatch):
  monkeypatch.setattr(subtasks, "METHODS", dict(subtasks.METHODS))
  yield
  gin_config.clear()


def _configured(method: str, *bindings: str):
  gin_config.parse([*FILES, f"methods/{method}.gin"], [*BINDINGS, *bindings])
  config = gin_config.instance("train.train")
  text = gin_config.operative_config()
  # As the folder of a run is opened by a process that knows nothing of it.
  subtasks.METHODS.pop("dss_palm_gpt_neox", None)
  gin_config.clear()
  gin_config.parse([], [text])
  again = gin_config.instance("train.train")
  assert again.train_dataset_cfg == config.train_dataset_cfg
  assert again.objective == config.objective
  return config


NAMES = sorted(
  path.stem for path in (gin_config.PACKAGED_FOLDER / "methods").glob("*.gin")
)


def test_every_method_is_tried():
  assert set(NAMES) >= {*subtasks.METHODS} - {"label", "rationale"}


@pytest.mark.parametrize("name", NAMES)
def test_every_method_makes_a_run(name):
  config = _configured(name, *EXTRA.get(name, ()))
  task = config.train_dataset_cfg.mixture_or_task_name
  method = name if name in subtasks.METHODS else TASKS.get(name, "dss")
  assert task == f"svamp_{method}"


EXTRA = {"extra_records": ["EXTRA_RECORDS = 'asdiv'"]}
# Of files that are none of a method's name; the others are distilling
# step-by-step with other data or weights.
TASKS = {
  "several_teachers": "dss_palm_gpt_neox",
  "dss_mutual_information": "dss_paired",
}


def test_what_the_options_of_the_methods_come_to():
  data = _configured("several_teachers").train_dataset_cfg.data
  assert data.rationale_sources == ("palm", "gpt-neox")
  several = _configured(
    "several_teachers",
    "TEACHERS = ('m/a', 'b')",
    "data.several_teachers.prefixes = {'b': 'as b: '}",
    "losses.Objective.subtask_weights ="
    " {'label': 1, 'rationale_m_a': 2, 'rationale_b': 0.5}",
  )
  task = several.train_dataset_cfg.mixture_or_task_name
  assert task == "svamp_dss_m_a_b"
  weights = several.objective.weighting(
    ("label", "rationale_m_a", "rationale_b")
  )
  assert weights.subtask_weights == (1, 2, 0.5)
  method = _configured(
    "fewer_rationales", "RATIONALE_FRACTION = 0.25"
  ).train_dataset_cfg.method
  assert method.rationale_fraction == 0.25
  method = _configured(
    "self_consistency", "data.MethodOptions.min_rationale_weight = 0.5"
  ).train_dataset_cfg.method
  assert method.min_rationale_weight == 0.5
  data = _configured("extra_records", *EXTRA["extra_records"])
  assert data.train_dataset_cfg.data.extra_records == "asdiv"


def test_the_table_of_the_docs_has_every_file(repository: pathlib.Path):
  text = (repository / "docs" / "methods.md").read_text()
  for name in NAMES:
    assert f"`{name}.gin`" in text
