"""The pages: one to try the model by hand, one that describes the interface.

Each page is a single document with its style and script inside. Its policy
allows these, requests to the server itself, and nothing else.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from starlette.responses import Response

_FOLDER = pathlib.Path(__file__).parent / "page"


@dataclasses.dataclass(frozen=True)
class Page:
  """A document and the policy that says what it may do."""

  document: bytes
  policy: str

  def response(self) -> Response:
    return Response(
      self.document,
      media_type="text/html",
      headers={
        "Content-Security-Policy": self.policy,
        "Cross-Origin-Opener-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "X-Frame-Options": "DENY",
      },
    )


def trial_page(needs_token: bool) -> Page:
  """A page with an input, a button, and the model's answer."""
  return _page(
    "index.html",
    token="" if needs_token else "hidden",
    script=_read("script.js"),
  )


def docs_page(openapi: Mapping[str, Any]) -> Page:
  """A page with all paths of the OpenAPI description."""
  schemas = openapi["components"]["schemas"]
  sections = [
    _section(f"{method.upper()} {path}", operation, schemas)
    for path, methods in openapi["paths"].items()
    for method, operation in methods.items()
  ]
  return _page("docs.html", paths="".join(sections))


def _read(name: str) -> str:
  return (_FOLDER / name).read_text(encoding="utf-8")


def _page(name: str, **parts: str) -> Page:
  """Fills the places `{{part}}` of a document."""
  parts["style"] = _read("style.css")
  document = _read(name)
  for part, text in parts.items():
    document = document.replace(f"{{{{{part}}}}}", text)
  policy = [
    "default-src 'none'",
    f"style-src '{_hash(parts['style'])}'",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",
    "trusted-types 'none'",
  ]
  if "script" in parts:
    policy.append(f"script-src '{_hash(parts['script'])}'")
  return Page(document.encode(), "; ".join(policy))


def _hash(text: str) -> str:
  digest = hashlib.sha256(text.encode()).digest()
  return f"sha256-{base64.b64encode(digest).decode()}"


# ---------------------------------------------------- the OpenAPI description


def _section(
  title: str, operation: Mapping[str, Any], schemas: Mapping[str, Any]
) -> str:
  """An operation with the fields of its request and of its answer."""
  tables = ""
  for heading, holder in (
    ("Request", operation.get("requestBody", {})),
    ("Answer", operation["responses"].get("200", {})),
  ):
    content = holder.get("content", {}).get("application/json", {})
    schema = _resolve(content.get("schema", {}), schemas)
    if "properties" in schema:
      rows = "".join(_rows(schema, schemas))
      tables += f"<h3>{heading}, JSON</h3>"
      tables += f"<div class=scroll><table>{rows}</table></div>"
  statuses = ", ".join(map(html.escape, operation["responses"]))
  return (
    f"<section><h2><code>{html.escape(title)}</code></h2>"
    f"<p>{html.escape(operation.get('summary', ''))}."
    f" <span class=quiet>Statuses: {statuses}</span></p>{tables}</section>"
  )


def _resolve(
  schema: Mapping[str, Any], schemas: Mapping[str, Any]
) -> Mapping[str, Any]:
  """The schema itself, if it refers to one of those with a name."""
  if "$ref" in schema:
    return schemas[schema["$ref"].rpartition("/")[2]]
  return schema


def _rows(
  schema: Mapping[str, Any], schemas: Mapping[str, Any], prefix: str = ""
) -> Iterator[str]:
  """Table rows for the fields of a schema, and of the lists in it."""
  for name, field in schema["properties"].items():
    cells = (_type(field), field.get("description", ""))
    yield (
      f"<tr><td><code>{html.escape(prefix + name)}</code></td>"
      f"{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>"
    )
    if "$ref" in field.get("items", {}):
      items = _resolve(field["items"], schemas)
      yield from _rows(items, schemas, f"{prefix}{name}[].")


def _type(field: Mapping[str, Any]) -> str:
  if "anyOf" in field:
    kinds = [_type(kind) for kind in field["anyOf"]]
    return " or ".join(kind for kind in kinds if kind != "null")
  if "enum" in field:
    return " | ".join(map(str, field["enum"]))
  if field.get("type") == "array":
    return f"list of {_type(field['items'])}"
  return str(field.get("type", "object"))
