"""HTML pages in one file that needs nothing else, not even a network.

  page = render(
    title="cqa", kind="rationales", main=browser("Records", "input, id"),
    data={"records": [...]}, style=..., script="startBrowser({...});",
  )

What a script shows comes from one block of JSON and is set as text, never as
markup. The page's Content-Security-Policy names the hashes of its own script
and style, so that nothing else in it could run. `page/browser.js` says what
the browser of records wants of a page's own script.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import pathlib
from collections.abc import Mapping
from typing import Any

_FOLDER = pathlib.Path(__file__).parent / "page"

# Characters of any one text on a page.
MAX_TEXT_CHARS = 4000
_CUT = "… [{} more characters]"


def render(
  *,
  title: str,
  kind: str,
  main: str,
  data: Mapping[str, Any],
  subtitle: str = "",
  noscript: str = "This page draws its numbers with JavaScript.",
  style: str = "",
  script: str = "",
) -> str:
  """A page as text.

  Args:
    title: a few words, such as the dataset and split.
    kind: what the page is about; stands behind the title.
    main: its content, as HTML; texts in it must be escaped already.
    data: for scripts, as JSON values; `records` are those of the browser.
    subtitle: one line below the title.
    noscript: shown where scripts do not run.
    style: its own style, after what pages share.
    script: its own script, after what pages share.
  """
  style = _read("style.css") + style
  script = _read("browser.js") + script
  policy = "; ".join(
    [
      "default-src 'none'",
      f"script-src '{_hash(script)}'",
      f"style-src '{_hash(style)}'",
      "base-uri 'none'",
      "form-action 'none'",
      "require-trusted-types-for 'script'",
      "trusted-types 'none'",
    ]
  )
  return fill(
    _read("page.html"),
    {
      "policy": html.escape(policy, quote=False),
      "title": html.escape(title),
      "kind": html.escape(kind),
      "subtitle": html.escape(subtitle),
      "noscript": html.escape(noscript),
      "main": main,
      "style": style,
      "script": script,
      "data": json_for_html(data),
    },
  )


def browser(title: str, searched: str) -> str:
  """The browser of records, as HTML.

  Args:
    title: its heading.
    searched: what a search looks at, in a few words.
  """
  parts = {"title": html.escape(title), "searched": html.escape(searched)}
  return fill(_read("browser.html"), parts)


def fill(template: str, parts: Mapping[str, str]) -> str:
  """The template with `{{NAME}}` replaced by the parts."""
  pieces = []
  # Piece by piece, so that a value is never searched for placeholders.
  while (start := template.find("{{")) >= 0:
    end = template.index("}}", start)
    pieces += [template[:start], parts[template[start + 2 : end]]]
    template = template[end + 2 :]
  return "".join([*pieces, template])


def json_for_html(value: Any) -> str:
  """JSON that cannot end the script element it stands in, or begin another."""
  text = json.dumps(value, ensure_ascii=False, allow_nan=False)
  for character in "<>&\u2028\u2029":
    text = text.replace(character, f"\\u{ord(character):04x}")
  return text


def cut(text: str, limit: int = MAX_TEXT_CHARS) -> str:
  """The text, or its beginning and how much follows."""
  if len(text) <= limit:
    return text
  return text[:limit] + _CUT.format(f"{len(text) - limit:,}")


def _read(name: str) -> str:
  return (_FOLDER / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
  digest = hashlib.sha256(text.encode("utf-8")).digest()
  return f"sha256-{base64.b64encode(digest).decode()}"
