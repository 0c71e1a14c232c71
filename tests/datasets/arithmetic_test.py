"""Arithmetic labels: values as Python's, and nothing else gets through."""

import ast
import fractions
import operator

import hypothesis
import pytest
from hypothesis import strategies as st

from dss_jax.datasets import arithmetic

_OPERATORS = {
  ast.Add: operator.add,
  ast.Sub: operator.sub,
  ast.Mult: operator.mul,
  ast.Div: operator.truediv,
}


def _by_python(expression: str, number=lambda value: value):
  """The value by Python's own grammar, walked by hand."""

  def walk(node):
    if isinstance(node, ast.Constant):
      return number(node.value)
    if isinstance(node, ast.UnaryOp):
      assert isinstance(node.op, ast.USub)
      return -walk(node.operand)
    return _OPERATORS[type(node.op)](walk(node.left), walk(node.right))

  return walk(ast.parse(expression.strip(), mode="eval").body)


_NUMBER = st.integers(0, 9999).map(str) | st.decimals(
  0, 9999, places=2, allow_nan=False
).map(str)
_SPACE = st.sampled_from(["", " ", "  ", "\t"])


def _expressions(number, operators):
  return st.recursive(
    number,
    lambda inner: (
      st.tuples(inner, _SPACE, st.sampled_from(operators), _SPACE, inner).map(
        "".join
      )
      | st.tuples(st.just("("), _SPACE, inner, _SPACE, st.just(")")).map(
        "".join
      )
      | inner.map("-{}".format)
    ),
    max_leaves=8,
  )


_EXPRESSION = _expressions(_NUMBER, "+-*/")
_check = hypothesis.settings(max_examples=200, deadline=None)


@_check
@hypothesis.given(expression=_EXPRESSION)
def test_values_are_pythons_to_the_last_bit(expression):
  hypothesis.assume(len(expression) <= arithmetic.MAX_LENGTH)
  try:
    expected = float(_by_python(expression))
  except ZeroDivisionError:
    expected = None
  assert arithmetic.value(expression) == expected


@_check
@hypothesis.given(
  expression=_expressions(st.integers(0, 10**9).map(str), "+-*")
)
def test_whole_numbers_are_exact(expression):
  hypothesis.assume(len(expression) <= arithmetic.MAX_LENGTH)
  exact = _by_python(expression, fractions.Fraction)
  assert arithmetic.value(expression) == float(exact)


@_check
@hypothesis.given(expression=_EXPRESSION)
def test_one_spelling_keeps_the_value_and_is_stable(expression):
  spelling = arithmetic.normalize(expression)
  value = arithmetic.value(expression)
  if value is None:
    assert spelling is None
  else:
    assert spelling is not None
    assert arithmetic.value(spelling) == value
    assert arithmetic.normalize(spelling) == spelling


@_check
@hypothesis.given(text=st.text(max_size=40) | st.text("0123456789.+-*/() e_"))
def test_any_text_has_a_value_only_if_python_agrees(text):
  value = arithmetic.value(text)
  if value is not None:
    assert value == float(_by_python(text))


@pytest.mark.parametrize(
  ("expression", "expected"),
  [
    ("( 84.0 / 2.0 )", 42.0),
    ("(84 / 2)", 42.0),
    ("( ( 17.0 + 15.0 ) + 2.0 )", 34.0),
    ("(10 - (3 + 6))", 1.0),
    ("2 - 3 - 4", -5.0),
    ("8 / 4 / 2", 1.0),
    ("2 + 3 * 4", 14.0),
    ("-(2 + 3) * 4", -20.0),
    ("3 - -2", 5.0),
    ("--3", 3.0),
    (".5 + 5.", 5.5),
    ("7", 7.0),
    ("0", 0.0),
    ("  ( 1 )\t", 1.0),
    ("0.1 + 0.2", 0.1 + 0.2),
    (f"{10**29} * 3 / {10**29}", 3.0),
  ],
)
def test_values(expression, expected):
  assert arithmetic.value(expression) == expected


@pytest.mark.parametrize(
  "text",
  [
    "",
    " ",
    "()",
    "(",
    ")",
    "(1",
    "1)",
    "1 2",
    "(1)(2)",
    "1 +",
    "* 1",
    "+5",
    "9**9**9",
    "9//2",
    "7 % 2",
    "1e5",
    "1_000",
    "1,000",
    "(175, 5)",
    "007",
    "00",
    "1.2.3",
    "1..2",
    ".",
    "0x10",
    "5j",
    "(2 * x)",
    "(some - 8)",
    "(7x = 14)",
    "(53 + 17) and (14 - 10)",
    "__import__('os')",
    "1 # 2",
    "1\n+ 2",
    "\u0663 + 1",  # an Arabic digit three
    "\uff11",  # a full-width digit one
    "1 \u2212 2",  # a typographic minus
    "\u00b2",
    "1 / 0",
    "1 / (2 - 2)",
    "1.0 / 0.0",
    "0 / 0",
    "nan",
    "inf",
    "9" * 31,
    "1." + "0" * 30,
    " * ".join(["9" * 29] * 11),  # beyond the largest float
    "1 + " * 100 + "1",  # too long
  ],
)
def test_what_is_no_expression_has_no_value(text):
  assert arithmetic.value(text) is None
  assert arithmetic.normalize(text) is None
  assert not arithmetic.same_value(text, text)


@pytest.mark.parametrize(
  ("text", "value"),
  [
    ("9**9**9**9", None),  # `eval` would not come back
    ("(" * 100_000 + "1" + ")" * 100_000, None),
    ("(" * 199 + "1" + ")" * 199, None),
    ("(" * 50 + "1" + ")" * 50, 1.0),
    ("(" * 51 + "1" + ")" * 51, None),
    ("-" * 100_000 + "1", None),
    ("-" * 399 + "1", None),
    ("9" * 1_000_000, None),
    ("*".join("9" * 20), float(9**20)),
    ("*".join("9" * 200), float(9**200)),
    ("/".join("9" * 200), pytest.approx(9.0**-198, rel=1e-9, abs=0.0)),
    (" " * 1_000_000, None),
  ],
)
def test_hostile_text_is_bounded(text, value):
  assert arithmetic.value(text) == value
  spelling = arithmetic.normalize(text)
  assert spelling is None or arithmetic.value(spelling) == value


@pytest.mark.parametrize(
  ("expression", "spelling"),
  [
    ("( 84.0 / 2.0 )", "(84 / 2)"),
    ("(84 / 2)", "(84 / 2)"),
    ("84/2", "(84 / 2)"),
    ("( ( 17.0 + 15.0 ) + 2.0 )", "(17 + 15 + 2)"),
    ("( 17.0 + ( 15.0 + 2.0 ) )", "(17 + (15 + 2))"),
    ("( ( 4.0 * 17.0 ) * 16.0 )", "(4 * 17 * 16)"),
    ("( 12.0 / ( 3.0 - 1.0 ) )", "(12 / (3 - 1))"),
    ("( 12.0 - ( 3.0 * 1.0 ) )", "(12 - 3 * 1)"),
    ("( ( 12.0 - 3.0 ) * 1.50 )", "((12 - 3) * 1.5)"),
    ("((7))", "(7)"),
    ("-(2 - 3)", "(-(2 - 3))"),
  ],
)
def test_one_spelling(expression, spelling):
  assert arithmetic.normalize(expression) == spelling


def test_same_value():
  assert arithmetic.same_value("( 84.0 / 2.0 )", "42")
  assert not arithmetic.same_value("42", "43")
  # By floats, as the official metric: the same sum in another order differs.
  assert not arithmetic.same_value("0.1 + 0.2 + 0.3", "0.1 + (0.2 + 0.3)")
