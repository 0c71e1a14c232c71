"""ASDiv's own file, `ASDiv.xml`: math word problems as XML.

    <Problem ID="nluds-0001" Grade="1" Source="...">
      <Body>..</Body> <Question>..</Question> <Answer>9 (apples)</Answer> ...

The file is somebody else's: its size is bounded, and a document type, without
which XML can declare no entity and reach no other file, is refused.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from xml.etree import ElementTree

from dss_jax.base.errors import UserError
from dss_jax.datasets.records import MissingFileError

# Bytes; the published file has about one million.
MAX_BYTES = 1 << 23


class _WithoutDocumentType(ElementTree.TreeBuilder):
  """Builds the tree of a document that declares nothing."""

  def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
    """Refuses a document type, before anything in it is read."""
    raise UserError("a document type (<!DOCTYPE ...>) is not allowed")


def entries(path: pathlib.Path) -> Iterator[dict[str, str]]:
  """The problems of a file, as the official code's JSON would have them.

  Args:
    path: of ASDiv.xml.

  Yields:
    The attributes (ID, Grade, Source) and the texts (Body, Question,
    Solution-Type, Answer, Formula) of each problem, in file order.

  Raises:
    UserError: if the file is missing, too large, or not what it should be.
  """
  if not path.is_file():
    raise MissingFileError(f"{path} is missing", fields="DataOptions.data_dir")
  size = path.stat().st_size
  if size > MAX_BYTES:
    raise UserError(f"{path}: {size} bytes, at most {MAX_BYTES} are allowed")
  parser = ElementTree.XMLParser(target=_WithoutDocumentType())
  try:
    root = ElementTree.parse(path, parser).getroot()
  except UserError as error:
    raise UserError(f"{path}: {error}") from None
  except (ElementTree.ParseError, ValueError, LookupError) as error:
    raise UserError(f"{path}: not XML ({error})") from None
  problems = list(root.iter("Problem"))
  if not problems:
    raise UserError(f"{path}: no <Problem> in <{root.tag}>")
  for problem in problems:
    texts = {child.tag: (child.text or "").strip() for child in problem}
    yield {**problem.attrib, **texts}
