"""The pages: one to try the model by hand, one that describes the interface.

Each is one document with its style and script inside; its policy allows
these, requests to the server itself, and nothing else.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html
import pathlib
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

_FOLDER = pathlib.Path(__file__).parent / "page"


@dataclasses.dataclass(frozen=True)
class Page:
  """A document and what it may do."""

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
  """An input, a button, and what the model makes of it."""
  script = _read("script.js")
  body = _read("index.html").replace(
    "{{token}}", "" if needs_token else "hidden"
  )
  return _page(body, script)


def docs_page(openapi: Mapping[str, Any]) -> Page:
  """What there is to ask for, from the OpenAPI description."""
  parts = [
    _section(method, path, operation, openapi)
    for path, methods in openapi["paths"].items()
    for method, operation in methods.items()
  ]
  return _page(_read("docs.html").replace("{{paths}}", "".join(parts)), None)


def _read(name: str) -> str:
  return (_FOLDER / name).read_text(encoding="utf-8")


def _page(body: str, script: str | None) -> Page:
  style = _read("style.css")
  policy = [
    "default-src 'none'",
    f"style-src '{_hash(style)}'",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",
    "trusted-types 'none'",
  ]
  document = body.replace("{{style}}", style)
  if script is not None:
    document = document.replace("{{script}}", script)
    policy.append(f"script-src '{_hash(script)}'")
  return Page(document.encode(), "; ".join(policy))


def _hash(text: str) -> str:
  digest = hashlib.sha256(text.encode()).digest()
  return f"sha256-{base64.b64encode(digest).decode()}"


def _section(
  method: str,
  path: str,
  operation: Mapping[str, Any],
  openapi: Mapping[str, Any],
) -> str:
  """One operation: its fields and its answers."""
  rows = []
  body = operation.get("requestBody")
  if body:
    rows += [
      "<h3>Request, JSON</h3>",
      _fields(body["content"]["application/json"]["schema"]),
    ]
  success = operation["responses"].get("200", {})
  reference = _schema(success).get("$ref")
  if reference:
    rows += ["<h3>Answer, JSON</h3>"]
    rows.append(_fields(_resolve(reference, openapi), openapi))
  statuses = ", ".join(map(html.escape, operation["responses"]))
  return (
    f"<section><h2><code>{method.upper()} {html.escape(path)}</code></h2>"
    f"<p>{html.escape(operation.get('summary', ''))}."
    f" <span class=quiet>Statuses: {statuses}</span></p>"
    f"{''.join(rows)}</section>"
  )


def _schema(response: Mapping[str, Any]) -> Mapping[str, Any]:
  content = response.get("content", {}).get("application/json", {})
  return content.get("schema", {})


def _resolve(reference: str, openapi: Mapping[str, Any]) -> Mapping[str, Any]:
  return openapi["components"]["schemas"][reference.rpartition("/")[2]]


def _fields(
  schema: Mapping[str, Any], openapi: Mapping[str, Any] | None = None
) -> str:
  rows = []
  for name, field in schema["properties"].items():
    told = field.get("description", "")
    rows.append(
      f"<tr><td><code>{html.escape(name)}</code></td>"
      f"<td>{html.escape(_type(field))}</td><td>{html.escape(told)}</td></tr>"
    )
    inner = field.get("items", {}).get("$ref")
    if inner and openapi:
      for below, of in _resolve(inner, openapi)["properties"].items():
        rows.append(
          f"<tr><td><code>{html.escape(name)}[].{html.escape(below)}</code>"
          f"</td><td>{html.escape(_type(of))}</td>"
          f"<td>{html.escape(of.get('description', ''))}</td></tr>"
        )
  return f"<div class=scroll><table>{''.join(rows)}</table></div>"


def _type(field: Mapping[str, Any]) -> str:
  if "anyOf" in field:
    kinds = [_type(kind) for kind in field["anyOf"]]
    return " or ".join(kind for kind in kinds if kind != "null")
  if "enum" in field:
    return " | ".join(map(str, field["enum"]))
  if field.get("type") == "array":
    return f"list of {_type(field['items'])}"
  return str(field.get("type", "object"))
