"""A cell is what is bound in it, however that is written."""

import json

import pytest

from dss_jax.base.errors import UserError
from dss_jax.cli import sweep_command
from dss_jax.experiments.sweeps import cells
from dss_jax.experiments.sweeps.cells import Settings
from dss_jax.experiments.sweeps.declaration import Sweep

FILES = (
  "models/taxonli.gin",
  "runs/taxonli.gin",
  "data/taxonli.gin",
  "methods/dss.gin",
)
BINDINGS = {"TRAIN_STEPS": 4, "RANDOM_SEED": 1, "ALPHA": 0.3}


def _name(files=FILES, bindings=None):
  read = sweep_command.make_reader([])
  found = read(
    Settings(tuple(files), BINDINGS if bindings is None else bindings)
  )
  return cells.cell_name(found.bindings)


def test_files_order_and_comments_do_not_matter(tmp_path):
  name = _name()
  assert _name(bindings=dict(reversed(BINDINGS.items()))) == name
  file = tmp_path / "mine.gin"
  file.write_text(
    "# a comment\n"
    + "".join(f"include '{path}'\n" for path in FILES)
    + "ALPHA = 0.5\nTRAIN_STEPS = 4  # steps\n"
    + "DataOptions.split_seed = 0\n"  # a shorter name, and the default
  )
  same = _name([str(file)], {"RANDOM_SEED": 1, "ALPHA": 0.30})
  assert same == _name(bindings=BINDINGS | {"data.DataOptions.split_seed": 0})
  other = tmp_path / "other" / "named.gin"
  other.parent.mkdir()
  file.rename(other)
  assert _name([str(other)], {"RANDOM_SEED": 1, "ALPHA": 0.3}) == same


def test_keys_of_a_dictionary_have_no_order():
  lengths = {"inputs": 48, "targets": 64}
  both = [lengths, dict(reversed(lengths.items()))]
  one, two = (
    _name(bindings={**BINDINGS, "TASK_FEATURE_LENGTHS": v}) for v in both
  )
  assert one == two == _name()


@pytest.mark.parametrize(
  "change",
  [
    {"ALPHA": 0.31},
    {"RANDOM_SEED": 2},
    {"OPTIMIZER": "@optimizers.AdamW()"},
    {"data.DataOptions.taxonli_num_train": 64},
    {"train/utils.DatasetConfig.attention_length": 601},
  ],
)
def test_a_changed_value_is_another_cell(change):
  assert _name(bindings=BINDINGS | change) != _name()


def test_the_folder_is_no_part_of_the_name():
  assert _name(bindings=BINDINGS | {"MODEL_DIR": "/elsewhere"}) == _name()


def test_a_seed_moves_the_draw_the_parameters_and_the_order():
  sweep = Sweep(axes={"method": ["dss"], "seed": [7]}, steps=20)
  (axes,) = cells.grid(sweep)
  settings = cells.settings_of(sweep, axes)
  assert settings.bindings == {
    "RANDOM_SEED": 7,
    "data.DataOptions.split_seed": 7,
    "data.DataOptions.taxonli_seed": 7,
    "data.DataOptions.generated_seed": 7,
  }
  assert settings.gin_files == ("methods/dss.gin",)


def test_further_grids_say_in_what_they_differ():
  sweep = Sweep(
    axes={"TRAIN_FRACTION": [0.5, 1.0], "method": ["standard", "dss"]},
    also=[{"method": ["dss"], "TRAIN_FRACTION": [0.5], "ALPHA": [0.2, 0.5]}],
    per_value={"method": {"dss": {"Z_LOSS": 0.1}}},
    bindings={"ALPHA": 0.9},
    steps=20,
  )
  grid = cells.grid(sweep)
  assert grid == [
    {"TRAIN_FRACTION": 0.5, "method": "standard"},
    {"TRAIN_FRACTION": 0.5, "method": "dss"},
    {"TRAIN_FRACTION": 1.0, "method": "standard"},
    {"TRAIN_FRACTION": 1.0, "method": "dss"},
    {"TRAIN_FRACTION": 0.5, "method": "dss", "ALPHA": 0.2},
    {"TRAIN_FRACTION": 0.5, "method": "dss", "ALPHA": 0.5},
  ]
  assert cells.settings_of(sweep, grid[0]).bindings == {
    "ALPHA": 0.9,
    "TRAIN_FRACTION": 0.5,
  }
  assert cells.settings_of(sweep, grid[-1]).bindings == {
    "ALPHA": 0.5,
    "Z_LOSS": 0.1,
    "TRAIN_FRACTION": 0.5,
  }


def test_files_of_axes_are_packaged_names_or_paths():
  sweep = Sweep(
    axes={
      "method": ["mine/best.gin"],
      "student": ["t5_1_1/small"],
      "data": ["svamp"],
    },
    gin_files=["runs/train.gin"],
    steps=20,
  )
  (axes,) = cells.grid(sweep)
  assert cells.settings_of(sweep, axes).gin_files == (
    "models/t5_1_1/small.gin",
    "runs/train.gin",
    "data/svamp.gin",
    "mine/best.gin",
  )


def test_flags_say_what_the_bindings_say():
  from dss_jax.cli import gin_config

  values = {
    "A": "plain/text.gin",
    "B": "None",
    "C": None,
    "D": "@optimizers.AdamW()",
    "E": {"inputs": 48},
    "F": "0.5",
    "G": "it's",
    "H": [1, 2.5],
  }
  settings = Settings(bindings=values)
  flags = [gin_config.binding_from_flag(flag) for flag in settings.flags()]
  assert flags == settings.texts()


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"axes": {"method": []}}, "method of axes has no values"),
    ({"axes": {"seed": [0, 0]}, "budget": "steps"}, "a value twice"),
    ({"axes": {"method": [1]}}, "name gin files"),
    ({"axes": {"TRAIN_STEPS": [1]}, "budget": "steps"}, "see steps"),
    ({"bindings": {"MODEL_DIR": "x"}}, "'MODEL_DIR' of bindings cannot be"),
    (
      {"per_value": {"method": {"dss": {"TRAIN_STEPS": 9}}}},
      "'TRAIN_STEPS' of per_value cannot be set",
    ),
    ({"axes": {"seed": [0]}}, "there is no axis method"),
    ({"reference": "few_shot"}, "'few_shot'; it must be one of"),
    ({"budget": "time"}, "budget is 'time'"),
    ({"steps": 3}, "steps is 3; it must be a whole number, 12 or more"),
    ({"search": {"BASE_LEARNING_RATE": [0.1]}}, "search has no seeds"),
    (
      {"search": {"BASE_LEARNING_RATE": [0.1]}, "search_seeds": [5, 0]},
      "seed 0 is searched with and reported",
    ),
    (
      {
        "search": {"ALPHA": [0.1]},
        "search_seeds": [5],
        "also": [{"ALPHA": [1]}],
      },
      "ALPHA is an axis and searched",
    ),
    ({"search_at": {"seed": [1]}}, "other than the seed"),
    ({"per_value": {"method": {"ds": {}}}}, "speaks of method 'ds'"),
  ],
)
def test_what_cannot_be_run_is_refused(changes, said):
  axes = {"method": ["standard", "dss"], "seed": [0]}
  if "search" in changes or "search_at" in changes:
    changes = {"search": {}, **changes}
  if "search_at" in changes:
    changes |= {"search": {"ALPHA": [0.1]}, "search_seeds": [5]}
  with pytest.raises(UserError) as raised:
    Sweep(**({"axes": axes, "steps": 20} | changes))
  assert said in str(raised.value)
  assert raised.value.fields


def test_a_cell_says_what_it_is(tmp_path):
  axes = {"method": "dss", "BASE_LEARNING_RATE": 0.04}
  read = sweep_command.make_reader([])
  cell = cells.Cell.of(axes, cells.FINAL, Settings(FILES, BINDINGS), 4, read)
  assert cell.label == "dss BASE_LEARNING_RATE=0.04"
  description = json.loads(json.dumps(cell.description()))
  assert description["axes"] == axes
  assert description["bindings"]["ALPHA"] == "0.3"
  assert cell.flags(tmp_path)[-1] == f"--gin.MODEL_DIR={cell.folder(tmp_path)}"
