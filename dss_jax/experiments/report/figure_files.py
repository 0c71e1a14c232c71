"""A drawing as files, and as an element of a page that allows no styles."""

from __future__ import annotations

import dataclasses
import io
import pathlib
import re
from collections.abc import Iterable
from typing import Any
from xml.etree import ElementTree

from dss_jax.base.atomic_files import atomic_path

_DPI = 200
# What would make equal drawings differ.
_DATE = {".svg": "Date", ".png": "Software"}
# Becomes `currentColor` on a page: the same drawing for light and dark.
INK = "#010203"
STYLE: Any = {
  "font.size": 9,
  "axes.titlesize": 9,
  "axes.labelsize": 9,
  "legend.fontsize": 8.5,
  "text.color": INK,
  "axes.edgecolor": INK,
  "axes.labelcolor": INK,
  "xtick.color": INK,
  "ytick.color": INK,
  # Names of teachers and settings may be anybody's, dollar signs included.
  "text.parse_math": False,
  "svg.fonttype": "path",
  "svg.hashsalt": "dss_jax",
}
_ATTRIBUTE = re.compile(r"\s*([\w-]+)\s*:\s*([^;]*?)\s*(?:;|$)")


@dataclasses.dataclass(frozen=True)
class Drawing:
  """A figure of a report.

  Attributes:
    name: of its files, without suffix.
    title: what it shows.
    caption: what a reader must know.
    svg: for a page: no style but attributes, and the ink of the text around.
    figure: matplotlib's.
  """

  name: str
  title: str
  caption: str
  svg: str
  figure: Any


def write(
  folder: pathlib.Path, drawings: Iterable[Drawing]
) -> list[pathlib.Path]:
  """Writes NAME.svg and NAME.png of each drawing."""
  from matplotlib import rc_context

  folder.mkdir(parents=True, exist_ok=True)
  written = []
  for drawing in drawings:
    for suffix in (".svg", ".png"):
      path = folder / f"{drawing.name}{suffix}"
      with atomic_path(path) as temporary, rc_context(STYLE):
        drawing.figure.savefig(
          temporary, format=suffix[1:], dpi=_DPI, metadata={_DATE[suffix]: None}
        )
      written.append(path)
  return written


def for_page(figure: Any, name: str, title: str) -> str:
  """The figure as an SVG element that a strict page can hold.

  Styles become attributes, which a page's Content-Security-Policy need not
  allow, and the ink becomes the colour of the text around.

  Args:
    figure: matplotlib's.
    name: begins the ids, which must differ from those of other drawings.
    title: read out in place of the drawing.
  """
  from matplotlib import rc_context

  text = io.StringIO()
  with rc_context(STYLE):
    figure.savefig(
      text, format="svg", transparent=True, metadata={"Date": None}
    )
  root = ElementTree.fromstring(text.getvalue())
  for element in root.iter():
    element.tag = element.tag.rpartition("}")[2]
    for key in list(element.attrib):
      if key.startswith("{"):
        value = element.attrib.pop(key)
        if key.endswith("}href"):
          element.set("href", value)
    for key, value in _ATTRIBUTE.findall(element.attrib.pop("style", "")):
      element.set(key, value)
    for key, value in element.attrib.items():
      if value.lower() == INK:
        element.set(key, "currentColor")
      elif key == "id":
        element.set(key, f"{name}-{value}")
      elif key in ("href", "clip-path"):
        element.set(key, value.replace("#", f"#{name}-", 1))
  for parent in list(root.iter()):
    for child in list(parent):
      if child.tag in ("metadata", "style"):
        parent.remove(child)
  width, height = (float(x) for x in root.attrib["viewBox"].split()[2:])
  root.attrib = {
    "viewBox": f"0 0 {width:g} {height:g}",
    "role": "img",
    "aria-label": title,
    "stroke-linejoin": "round",
    "stroke-linecap": "butt",
  }
  return ElementTree.tostring(root, encoding="unicode")
