"""The pages hang together: `make docs` checks more, in its own environment."""

import pathlib
import re

import documented_commands
import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
PAGES = [
  *documented_commands.pages(REPOSITORY),
  REPOSITORY / "CHANGELOG.md",
  REPOSITORY / "SECURITY.md",
]


def _is_of_a_report(page: pathlib.Path) -> bool:
  """Tables that `dss-jax report` wrote are no pages of the site."""
  return "report" in page.relative_to(REPOSITORY).parts


def _without_code(text: str) -> str:
  text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
  return re.sub(r"`[^`\n]*`", "", re.sub(r"^    .*$", "", text, flags=re.M))


def _anchors(page: pathlib.Path) -> set[str]:
  """The names of a page's headings, as GitHub makes them."""
  text = page.read_text(encoding="utf-8")
  text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
  return {
    re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
  }


def _broken_links(page: pathlib.Path) -> list[str]:
  broken = []
  text = _without_code(page.read_text(encoding="utf-8"))
  for link in re.findall(r"\]\(([^)\s]+)\)", text):
    if re.match(r"\w+:", link):
      continue
    name, _, anchor = link.partition("#")
    target = (page.parent / name).resolve() if name else page
    if not target.exists() or (anchor and anchor not in _anchors(target)):
      broken.append(link)
  return broken


def test_links_lead_somewhere():
  assert {
    page.relative_to(REPOSITORY).as_posix(): broken
    for page in PAGES
    if (broken := _broken_links(page))
  } == {}


@pytest.mark.parametrize("link", ["no.md", "other.md#no", "#no", "no/"])
def test_a_broken_link_is_seen(link, tmp_path):
  (tmp_path / "other.md").write_text("# A `B`: c, d\n")
  page = tmp_path / "page.md"
  good = "[a](other.md#a-b-c-d) [b](https://x.y) `[c](no.md)` [d](#page)"
  page.write_text(f"# Page\n\n{good}\n\n[e]({link})\n\n    [f](no.md)\n")
  assert _broken_links(page) == [link]


def test_the_sidebar_has_every_page():
  text = (REPOSITORY / "docs" / "_toc.yml").read_text()
  named = re.findall(r"^(?:root: |\s+- file: )(\S+)$", text, re.MULTILINE)
  assert len(named) == len(set(named)) > 30
  found = {REPOSITORY / f"{name}.md" for name in named}
  for pattern in re.findall(r"^\s+- glob: (\S+)$", text, re.MULTILINE):
    found |= set(REPOSITORY.glob(f"{pattern}.md"))
  assert {page for page in PAGES if not _is_of_a_report(page)} == found
