"""Arithmetic labels: their values and one spelling, without `eval`.

SVAMP's labels are expressions such as `( 84.0 / 2.0 )`; a prediction is right
if it has the same value. The official code hands both to Python's `eval`, which
runs whatever a model wrote and hangs on `9**9**9`. Here an expression is
numbers, `+ - * /`, unary minus and parentheses, nothing else, and its length is
bounded, so that any text costs microseconds.

Where both accept an expression the values agree to the last bit: whole numbers
stay exact integers until a division or a decimal, as in Python.
"""

from __future__ import annotations

import dataclasses
import math
import re

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

_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2, "negate": 3}


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


def _tokens(expression: str) -> list[tuple[str, str]] | None:
  """(kind, text) pairs; None if something else is in the expression."""
  if len(expression) > MAX_LENGTH:
    return None
  tokens, position = [], 0
  expression = expression.rstrip(" \t")
  while position < len(expression):
    match = _TOKEN.match(expression, position)
    if match is None:
      return None
    number, symbol = match.groups()
    if number is not None and len(number) > MAX_DIGITS:
      return None
    tokens.append(("number", number) if number is not None else ("", symbol))
    position = match.end()
  return tokens


def _parse(expression: str) -> _Node | None:
  """Shunting-yard with explicit stacks: no recursion for input to exhaust."""
  tokens = _tokens(expression)
  if not tokens:
    return None
  operands: list[_Node] = []
  operators: list[str] = []
  depth = 0
  expect_operand = True
  for kind, text in tokens:
    if expect_operand:
      if kind == "number":
        operands.append(_number(text))
        expect_operand = False
      elif text == "(":
        operators.append("(")
        depth += 1
      elif text == "-":
        operators.append("negate")
      else:
        return None
      if len(operators) > 4 * MAX_DEPTH or depth > MAX_DEPTH:
        return None
    elif text == ")":
      while operators and operators[-1] != "(":
        if not _reduce(operators.pop(), operands):
          return None
      if not operators:
        return None
      operators.pop()
      depth -= 1
    elif text in _PRECEDENCE:
      while (
        operators
        and operators[-1] != "("
        and _PRECEDENCE[operators[-1]] >= _PRECEDENCE[text]
      ):
        if not _reduce(operators.pop(), operands):
          return None
      operators.append(text)
      expect_operand = True
    else:
      return None
  if expect_operand:
    return None
  while operators:
    operator = operators.pop()
    if operator == "(" or not _reduce(operator, operands):
      return None
  return operands[0]


def _number(text: str) -> _Node:
  number = float(text) if "." in text else int(text)
  spelled = text
  if isinstance(number, float):
    # repr gives the shortest text with this value, but may use an exponent.
    spelled = str(int(number)) if number.is_integer() else repr(number)
    if "e" in spelled or len(spelled) > MAX_DIGITS:
      spelled = text
  return _Node(number, spelled, 4)


def _reduce(operator: str, operands: list[_Node]) -> bool:
  """Applies an operator to the operand stack; False if it has no value."""
  right = operands.pop()
  if operator == "negate":
    text = right.text if right.precedence >= 3 else f"({right.text})"
    operands.append(_Node(-right.value, f"-{text}", 3))
    return True
  left = operands.pop()
  try:
    if operator == "+":
      result = left.value + right.value
    elif operator == "-":
      result = left.value - right.value
    elif operator == "*":
      result = left.value * right.value
    else:
      result = left.value / right.value
  except (ZeroDivisionError, OverflowError):
    return False
  precedence = _PRECEDENCE[operator]
  left_text, right_text = left.text, right.text
  if left.precedence < precedence:
    left_text = f"({left_text})"
  # Operators group from the left: a - (b - c) needs its parentheses, and so
  # does a + (b + c), whose floating-point value may differ without them.
  if right.precedence <= precedence:
    right_text = f"({right_text})"
  operands.append(
    _Node(result, f"{left_text} {operator} {right_text}", precedence)
  )
  return True
