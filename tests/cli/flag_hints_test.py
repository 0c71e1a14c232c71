"""Errors of the library name fields; the command line adds what sets them."""

import argparse
import ast
import collections
import itertools
import re

import pytest

from dss_jax.base.errors import UserError
from dss_jax.cli import command_line, flag_hints, gin_config
from dss_jax.training.evaluation import EvaluationConfig

GIN = {"GinFlags.gin_file": "gin_file"}
ALL_MODES = [mode for modes in command_line.MODES.values() for mode in modes]


@pytest.mark.parametrize(
  "flags",
  [
    {"Predictor.batch_size": "batch_size", "Other.batch_size": "size"},
    {"SpeedFlags.batch_size": "batch_size"},  # of the mode's own
  ],
)
def test_a_field_that_is_a_flag(flags):
  error = UserError("batch_size is 0", fields="Predictor.batch_size")
  assert flag_hints.with_hints(error, flags) == (
    "batch_size is 0 (--batch_size)"
  )


def test_flags_of_another_name():
  error = UserError(
    "topk is -1", fields=("DecodeOptions.topk", "DatasetConfig.pack")
  )
  flags = {"DecodeOptions.topk": "top_k", "BatchFlags.no_packing": "no_packing"}
  assert flag_hints.with_hints(error, flags) == (
    "topk is -1 (--top_k, --no_packing)"
  )


def test_a_flag_that_the_message_names_is_not_repeated():
  error = UserError("--limit is 0", fields="RecordFlags.limit")
  flags = {"RecordFlags.limit": "limit"}
  assert flag_hints.with_hints(error, flags) == "--limit is 0"


@pytest.mark.parametrize("mode", ALL_MODES)
def test_every_mode_knows_which_flag_sets_which_field(mode):
  """Each flag of a mode is the one of a field, for `build` and for hints."""
  parser = argparse.ArgumentParser()
  command_line._add_mode(parser, mode)
  for command in command_line._all_parsers(parser):
    flags = {
      option.removeprefix("--")
      for action in command._actions
      for option in action.option_strings
      if option.startswith("--")
    } - {"help", "debug", "gin.NAME=VALUE"}
    known = command.get_default("field_flags") or {}
    assert flags == set(known.values())


def test_a_field_that_nothing_sets():
  error = UserError("batch_size is 0", fields="Predictor.batch_size")
  assert flag_hints.with_hints(error, GIN) == "batch_size is 0"


@pytest.mark.parametrize(
  ("field", "value", "hint"),
  [
    ("loss_batches", -1, "--gin.EVAL_STEPS"),
    ("batch_size", 0, "--gin.evaluation.EvaluationConfig.batch_size"),
  ],
)
def test_fields_that_gin_sets(field, value, hint):
  gin_config.parse(["models/taxonli.gin", "runs/train.gin"])
  try:
    with pytest.raises(UserError) as caught:
      EvaluationConfig(**{field: value})
    text = flag_hints.with_hints(caught.value, GIN)
  finally:
    gin_config.clear()
  assert text.startswith(f"{field} is {value}; it must be")
  assert text.endswith(f"({hint})")


def _definitions(repository):
  """The names that each class or function of the package takes or holds."""
  names = collections.defaultdict(set)
  for path in sorted((repository / "dss_jax").rglob("*.py")):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
      if isinstance(node, ast.ClassDef):
        names[node.name] |= {
          ast.unparse(line.target)
          for line in node.body
          if isinstance(line, ast.AnnAssign)
        }
        names[node.name] |= {ast.unparse(base) for base in node.bases}
        for method in node.body:
          if getattr(method, "name", None) == "__init__":
            names[node.name] |= {a.arg for a in ast.walk(method) if isinstance(a, ast.arg)}  # fmt: skip
      elif isinstance(node, ast.FunctionDef):
        names[node.name] |= {
          argument.arg
          for argument in ast.walk(node.args)
          if isinstance(argument, ast.arg)
        }
  return names


def _named_fields(repository):
  """Every `Class.name` that an error or a check of the package names."""
  for path in sorted((repository / "dss_jax").rglob("*.py")):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
      if isinstance(node, ast.Call):
        named = [k.value for k in node.keywords if k.arg == "fields"]
        if ast.unparse(node.func).startswith("checks."):
          named += node.args[:1]
        for constant in itertools.chain(*map(ast.walk, named)):
          value = getattr(constant, "value", None)
          if isinstance(value, str) and re.fullmatch(r"\w+\.\w+(?<!_)", value):
            yield path.name, *value.split(".")


def test_the_fields_that_errors_name_exist(repository):
  definitions = _definitions(repository)
  found = list(_named_fields(repository))
  assert len(found) > 100  # else nothing is looked at
  missing = [
    (file, owner, name)
    for file, owner, name in found
    if name not in definitions[owner]
    and not any(name in definitions[base] for base in definitions[owner])
  ]
  assert not missing


def test_errors_below_the_command_line_name_no_flags(repository):
  named = [
    (path.name, constant.value)
    for path in sorted((repository / "dss_jax").rglob("*.py"))
    if "cli" not in path.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    if isinstance(node, ast.Raise)
    for constant in ast.walk(node)
    if isinstance(constant, ast.Constant)
    and isinstance(constant.value, str)
    and re.search(r"(?<!tensorboard )--[a-z]", constant.value)
  ]
  assert not named
