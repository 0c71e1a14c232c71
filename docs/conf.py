"""The documentation site: `make docs` builds it into build/docs.

Its source folder is the repository, not docs/: README, CHANGELOG and the pages
of benchmarks/ and examples/ are pages of it, and a relative link leads to the
same place here and on GitHub. The pages are plain Markdown; `_toc.yml` orders
them. The reference is read from the sources (sphinx-autoapi) instead of by
importing them, so that neither JAX nor TensorFlow is needed.
"""

import os
import pathlib
import sys

from docutils import nodes
from pygments.lexers.python import PythonLexer
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

DOCS = pathlib.Path(__file__).resolve().parent
REPOSITORY = DOCS.parent
# For the command line, and for the directives of the reference pages.
sys.path[:0] = [str(REPOSITORY), str(DOCS)]

project = "dss_jax"
author = "the dss_jax authors"
copyright = author
extensions = [
  "autoapi.extension",
  "myst_parser",
  "reference_directives",
  "sphinx.ext.napoleon",
  "sphinx_copybutton",
  "sphinx_external_toc",
]

# ----------------------------------------------------------------- the pages

_SHOWN = {
  *("CHANGELOG.md", "CONTRIBUTING.md", "README.md", "SECURITY.md"),
  *("benchmarks", "docs", "examples"),
}
exclude_patterns = [
  *sorted(
    path.name for path in REPOSITORY.iterdir() if path.name not in _SHOWN
  ),
  # Tables of reports, which are made to be put into other texts.
  "docs/results/*/report",
]
external_toc_path = "docs/_toc.yml"
myst_heading_anchors = 4
highlight_language = "none"

# ------------------------------------------------------------- the reference

autoapi_dirs = [str(REPOSITORY / "dss_jax")]
autoapi_ignore = ["*/dss_jax/cli/*", "*/dss_jax/gin/*", "*/dss_jax/tasks/*"]
autoapi_generate_api_docs = False  # the public names only, on a page of ours
autoapi_options = ["members"]
napoleon_use_ivar = True
default_role = "code"
suppress_warnings = ["autoapi.python_import_resolution"]
# Types in signatures name what other projects document, or what is not public.
nitpick_ignore_regex = [("py:.*", ".*")]

# ------------------------------------------------------------------ the look

html_theme = "furo"
html_title = "dss_jax"
html_extra_path = ["_site"]
html_copy_source = False
# Where the sources are on the web: GitHub says so to its own workflows.
_GITHUB = {"GITHUB_SERVER_URL", "GITHUB_REPOSITORY"} <= os.environ.keys()
_WEB = (
  f"{os.environ['GITHUB_SERVER_URL']}/{os.environ['GITHUB_REPOSITORY']}"
  if _GITHUB
  else None
)
if _WEB:
  html_theme_options = {
    "source_repository": _WEB,
    "source_branch": "main",
    "source_directory": "",
  }
else:
  html_theme_options = {"top_of_page_buttons": []}


def _link_to_folder(
  app: Sphinx, env: BuildEnvironment, node: pending_xref, text: nodes.Element
) -> nodes.reference | None:
  """A link to a folder of the repository, which is no page of the site.

  It leads to the folder on the web, or in a build elsewhere on this machine.
  """
  del app
  path = (env.doc2path(node["refdoc"]).parent / node["reftarget"]).resolve()
  if not (path.is_dir() and path.is_relative_to(REPOSITORY)):
    return None
  name = path.relative_to(REPOSITORY).as_posix()
  address = f"{_WEB}/tree/main/{name}" if _WEB else path.as_uri()
  return nodes.reference("", "", text, refuri=address)


def setup(app: Sphinx) -> None:
  """Called by Sphinx."""
  app.add_lexer("gin", PythonLexer)
  app.connect("missing-reference", _link_to_folder)
