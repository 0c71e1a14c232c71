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
from sphinx.transforms.post_transforms import SphinxPostTransform

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
# What is text on GitHub is text here, such as a line that begins with `%`.
myst_disable_syntax = [
  *("myst_block_break", "myst_line_comment", "myst_role", "myst_target"),
]
highlight_language = "none"

# ------------------------------------------------------------- the reference

autoapi_dirs = [str(REPOSITORY / "dss_jax")]
# Nothing public is in these, and parsing takes time.
autoapi_ignore = [
  f"*/dss_jax/{name}/*"
  for name in (
    *("cli", "gin", "planning", "tasks"),
    *("experiments/distill", "students/bulk", "students/serving"),
  )
]
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


class FolderLinks(SphinxPostTransform):
  """Links to folders of the repository, which are no pages of the site.

  They lead to the folder on the web, or in a build elsewhere on this machine.
  """

  default_priority = 8  # before MyST's own, which knows pages and files

  def run(self, **kwargs: object) -> None:
    del kwargs
    for node in list(self.document.findall(pending_xref)):
      if node["reftype"] != "myst" or "#" in node["reftarget"]:
        continue
      page = pathlib.Path(self.env.doc2path(node["refdoc"]))
      path = (page.parent / node["reftarget"]).resolve()
      if path.is_dir() and path.is_relative_to(REPOSITORY):
        name = path.relative_to(REPOSITORY).as_posix()
        address = f"{_WEB}/tree/main/{name}" if _WEB else path.as_uri()
        node.replace_self(
          nodes.reference("", "", *node.children, refuri=address)
        )


def setup(app: Sphinx) -> None:
  """Called by Sphinx."""
  app.add_lexer("gin", PythonLexer)
  app.add_post_transform(FolderLinks)
