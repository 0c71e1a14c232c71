"""Flags are made of dataclasses, which are read and not imported."""

import argparse
import dataclasses
import subprocess
import sys

import pytest

from dss_jax.cli import flags


@dataclasses.dataclass(frozen=True)
class Lunch:
  """What there is.

  Attributes:
    main_dish: such as `soup`, at most
      100 % of it.
    guests: how many come. None asks
      nobody.
    price: of it.
    sides: what else there is.
    wines: to choose from.
    late: begin in the evening.
    big: an expression.
  """

  main_dish: str
  guests: int | None = None
  price: float = 0.0
  sides: tuple[str, ...] = ()
  wines: tuple[str, ...] = ("red", "white")
  late: bool = False
  big: int = 1 << 4


def _parser(**changes):
  parser = argparse.ArgumentParser()
  flags.add_flags(parser, Lunch, **changes)
  return parser


def test_defaults_are_what_the_class_says():
  args = _parser().parse_args(["--main_dish=soup"])
  assert flags.build(Lunch, args) == Lunch("soup")


def test_flags_have_the_types_of_the_fields():
  argv = "--main_dish=soup --guests=3 --price=2 --sides a b --sides=c --late"
  args = _parser(wines=flags.NAMES).parse_args(
    [*argv.split(), "--wines=rose, white", "--big=5"]
  )
  assert flags.build(Lunch, args) == Lunch(
    "soup", 3, 2.0, ("a", "b", "c"), ("rose", "white"), True, 5
  )


def test_help_is_the_docstring_with_the_defaults():
  text = " ".join(_parser().format_help().split())
  for said in (
    "--main_dish NAME such as soup, at most 100 % of it",
    "--guests N how many come. None asks nobody",
    "--price X of it; default: 0.0",
    "what else there is",
    "to choose from; default: red,white",
    "--big N an expression; default: 1 << 4",
  ):
    assert said in text


@pytest.mark.parametrize("argv", [[], ["--main_dish=x", "--guests=many"]])
def test_mistakes_are_found_by_the_parser(argv):
  with pytest.raises(SystemExit) as ended:
    _parser().parse_args(argv)
  assert ended.value.code == 2


def test_names_and_choices_can_differ_and_fields_be_left_out():
  parser = _parser(
    price={"flag": "cost"}, main_dish={"choices": ("soup",)}, late=None
  )
  args = parser.parse_args(["--main_dish=soup", "--cost=3"])
  assert flags.build(Lunch, args, guests=2) == Lunch("soup", 2, 3.0)
  assert args.field_flags["Lunch.price"] == "cost"
  assert "Lunch.late" not in args.field_flags


def test_classes_of_the_library_are_not_imported():
  code = """
import argparse, sys
from dss_jax.cli import flags
parser = argparse.ArgumentParser()
flags.add_flags(parser, "students.predict_options.PredictOptions", "num_best")
assert parser.parse_args([]).num_best == 1
assert "dss_jax.students" not in sys.modules
"""
  subprocess.run([sys.executable, "-c", code], check=True)
