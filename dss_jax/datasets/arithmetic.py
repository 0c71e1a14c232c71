"""Arithmetic labels: their values and one spelling, without `eval`.

SVAMP's labels are expressions such as `( 84.0 / 2.0 )`; a prediction is right
if it has the same value. The official code hands both to Python's `eval`, which
runs whatever a model wrote and hangs on `9**9**9`. Here an expression is
numbers, `+ - * /`, unary minus and parentheses, nothing else, and its length is
bounded, so that any text costs microseconds. Python's parser makes the tree of
it, and only such nodes are computed: nothing is run.

Where both accept an expression the values agree to the last bit: whole numbers
stay exact integers until a division or a decimal, as in Python.
"""

from __future__ import annotations

import ast
import dataclasses
import math
import operator
import re
from collections.abc import Callable
from typing import Any

# The longest label of SVAMP has 46 characters, a student's output a few
# hundred. Integers stay below 10**MAX_LENGTH, so no operation is slow.
MAX_LENGTH = 400
MAX_DEPTH = 50
MAX_DIGITS = 30

# ASCII digits only: str.isdigit and \d also accept other scripts' digits. A
# leading zero ("007") is no number in Python, and none here.
_TOKEN = re.compile(
  r"[ \t]*(?:((?:0|[1-9][0-9]*)(?:\.[0-9]*)?|0[0-9]*\.[0-9]*|\.[0-9]+)"
  r"(?![0-9.])|([-+*/()]))"
)

# Node -> its sign, how tightly it binds, and what it computes.
_OPERATORS: dict[type[ast.operator], tuple[str, int, Callable[..., Any]]] = {
  ast.Add: ("+", 1, operator.add),
  ast.Sub: ("-", 1, operator.sub),
  ast.Mult: ("*", 2, operator.mul),
  ast.Div: ("/", 2, operator.truediv),
}


@dataclasses.dataclass(frozen=True)
class _Node:
  """A parsed expression with its value and its one spelling.

  Attributes:
    value: as Python computes it.
    text: without redundant parentheses.
    precedence: of its outermost operator; numbers bind tightest (4).
  """

  value: int | float
  text: str
  precedence: int


def value(expression: str) -> float | None:
  """The value of an expression.

  Args:
    expression: any text.

  Returns:
    The value as a float, or None if the text is no expression, is longer,
    deeper or has longer numbers than the bounds, divides by zero, or is too
    large for a float. None is never equal to another value: what cannot be
    evaluated is wrong.
  """
  node = _parse(expression)
  return None if node is None else _as_float(node.value)


def same_value(first: str, second: str) -> bool:
  """Whether both expressions have a value, and the same one."""
  first_value = value(first)
  return first_value is not None and first_value == value(second)


def normalize(expression: str) -> str | None:
  """The one spelling of an expression: `( 84.0 / 2.0 )` becomes `(84 / 2)`.

  Whole numbers lose their decimals, operators have one space on each side, and
  only the parentheses that the order of operations needs remain, inside one
  pair around everything. The value stays what it was.

  Returns:
    The spelling, or None if the expression has no value, or its spelling is
    longer than the bounds or of another value.
  """
  node = _parse(expression)
  if node is None or _as_float(node.value) is None:
    return None
  text = f"({node.text})"
  # 2**53 + 1 is exact as an integer and not as a decimal: leave such alone.
  return text if value(text) == _as_float(node.value) else None


def _as_float(number: int | float) -> float | None:
  try:
    number = float(number)
  except OverflowError:
    return None
  return number if math.isfinite(number) else None


def _parse(expression: str) -> _Node | None:
  """The expression's value and spelling, by Python's own grammar.

  Its text holds nothing but the numbers and signs of `_TOKEN`, and only the
  kinds of node below are computed.
  """
  expression = expression.strip(" \t")
  if len(expression) > MAX_LENGTH or not _is_arithmetic(expression):
    return None
  try:
    tree = ast.parse(expression, mode="eval")
    return _node(tree.body, expression)
  except (SyntaxError, ArithmeticError, RecursionError, _NotArithmetic):
    return None


def _is_arithmetic(expression: str) -> bool:
  """Whether the text is short numbers, signs and parentheses, in bounds."""
  position = depth = signs = 0
  while position < len(expression):
    match = _TOKEN.match(expression, position)
    if match is None:
      return False
    number, sign = match.groups()
    if len(number or "") > MAX_DIGITS:
      return False
    depth += (sign == "(") - (sign == ")")
    # Signs in a row nest too.
    signs = 0 if number else signs + 1
    if depth > MAX_DEPTH or signs > 4 * MAX_DEPTH:
      return False
    position = match.end()
  return True


class _NotArithmetic(ValueError):
  """Python's grammar allows it, and it is no arithmetic: `1 // 2`, `2(3)`."""


def _node(tree: ast.expr, expression: str) -> _Node:
  """Computes and spells a tree; its depth is bounded by MAX_LENGTH."""
  if isinstance(tree, ast.Constant):
    return _number(expression[tree.col_offset : tree.end_col_offset])
  if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.USub):
    operand = _node(tree.operand, expression)
    text = operand.text if operand.precedence >= 3 else f"({operand.text})"
    return _Node(-operand.value, f"-{text}", 3)
  if not isinstance(tree, ast.BinOp) or type(tree.op) not in _OPERATORS:
    raise _NotArithmetic
  sign, precedence, compute = _OPERATORS[type(tree.op)]
  left = _node(tree.left, expression)
  right = _node(tree.right, expression)
  left_text, right_text = left.text, right.text
  if left.precedence < precedence:
    left_text = f"({left_text})"
  # Operators group from the left: a - (b - c) needs its parentheses, and so
  # does a + (b + c), whose floating-point value may differ without them.
  if right.precedence <= precedence:
    right_text = f"({right_text})"
  value = compute(left.value, right.value)
  return _Node(value, f"{left_text} {sign} {right_text}", precedence)


def _number(text: str) -> _Node:
  number = float(text) if "." in text else int(text)
  spelled = text
  if isinstance(number, float):
    # repr gives the shortest text with this value, but may use an exponent.
    spelled = str(int(number)) if number.is_integer() else repr(number)
    if "e" in spelled or len(spelled) > MAX_DIGITS:
      spelled = text
  return _Node(number, spelled, 4)
