"""Prices: which entry stands for a model, and what tables are refused."""

import pytest

from dss_jax.base.errors import UserError
from dss_jax.rationales.prices import Price, Prices
from dss_jax.rationales.teacher_requests import Charge, Tokens


def table(tmp_path, text):
  path = tmp_path / "mine.toml"
  path.write_text(text, encoding="utf-8")
  return path


def entry(name, prompt: object = 1, completion: object = 2):
  return f'[models."{name}"]\nprompt = {prompt}\ncompletion = {completion}\n'


def test_cost():
  prices = Prices(({"m": Price(2.0, 8.0)},))
  assert prices.cost("m", 1_000_000, 500_000) == pytest.approx(6.0)
  assert prices.cost("unknown", 1, 1) is None


def test_cached_tokens_and_batches_cost_less():
  price = Price(2.0, 8.0, cached=0.5, batch=0.5)
  tokens = Tokens(1_000_000, 500_000, cached=400_000)
  assert price.cost(tokens) == pytest.approx(1.2 + 0.2 + 4.0)
  assert price.cost(tokens, is_batch=True) == pytest.approx(2.7)
  # Where the discount is not known, none is counted on.
  plain = Price(2.0, 8.0)
  assert plain.cost(tokens) == plain.cost(tokens, is_batch=True) == 6.0
  charges = [Charge("m", False, tokens), Charge("m", True, tokens)]
  unknown = Charge("x", False, tokens)
  assert Prices(({"m": price},)).total([*charges, unknown]) == pytest.approx(
    8.1
  )


def test_discounts_are_read_and_checked(tmp_path):
  text = entry("m") + "cached = 0.25\nbatch = 0.5\n"
  assert Prices.load(table(tmp_path, text)).price("m") == Price(1, 2, 0.25, 0.5)
  for wrong in ("batch = 50\n", "cached = -1\n", 'batch = "half"\n', "x = 1\n"):
    with pytest.raises(UserError, match=r"\[models"):
      Prices.load(table(tmp_path, entry("m") + wrong))


def test_the_packaged_table():
  prices = Prices.load()
  for model in ("gpt-4.1", "gpt-4.1-2025-04-14"):
    assert prices.price(model) == Price(2.0, 8.0, 0.5, 0.5)
  mini = prices.price("gpt-4.1-mini-2025-04-14")
  assert mini == Price(0.4, 1.6, 0.1, 0.5)
  # Another model, not a revision: better no price than a wrong one.
  assert prices.price("gpt-4o-audio-preview") is None
  # What a machine of one's own costs is not for us to say.
  assert prices.price("smollm2-135m") is None


def test_own_entries_go_first(tmp_path):
  path = table(
    tmp_path,
    entry("gpt-4.1*", 5, 6)
    + entry("local-*", 0, 0)
    + entry("local-big-*", 1, 1)
    + entry("gpt-4o", 7, 8),
  )
  prices = Prices.load(path)
  assert prices.price("gpt-4.1") == Price(5, 6)
  assert prices.price("gpt-4.1-mini") == Price(5, 6)
  assert prices.price("gpt-4o") == Price(7, 8)
  assert prices.price("gpt-4o-mini") == Price(0.15, 0.6, 0.075, 0.5)
  assert prices.cost("local-7b", 9, 9) == 0
  assert prices.price("local-big-70b") == Price(1, 1)


@pytest.mark.parametrize(
  ("name", "fits"),
  [
    ("m", True),
    ("m-0613", True),
    ("m-001", True),
    ("m-20250101", True),
    ("m-latest", True),
    ("m@20250101", True),
    ("m-mini", False),
    ("m-7b", False),
    ("org/m", False),
  ],
)
def test_revisions(name, fits):
  prices = Prices(({"m": Price(1, 1)},))
  assert (prices.price(name) is not None) == fits


@pytest.mark.parametrize(
  ("text", "reason"),
  [
    ("models = 3", "no entries"),
    ("", "no entries"),
    ("[models", "not valid TOML"),
    ('[models."m"]\nprompt = 1\n', "prompt and completion"),
    (entry("m", -1), "no price"),
    (entry("m", "nan"), "no price"),
    (entry("m", "inf"), "no price"),
    (entry("m", "true"), "no price"),
    (entry("m", '"1"'), "no price"),
  ],
)
def test_unusable_tables(tmp_path, text, reason):
  with pytest.raises(UserError, match=reason) as caught:
    Prices.load(table(tmp_path, text))
  assert "mine.toml" in str(caught.value)
  assert "\n" not in str(caught.value)


def test_no_table(tmp_path):
  with pytest.raises(UserError, match="cannot be read"):
    Prices.load(tmp_path / "absent.toml")
  with pytest.raises(UserError, match="cannot be read"):
    Prices.load(tmp_path)
  (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
  with pytest.raises(UserError, match="not valid UTF-8"):
    Prices.load(tmp_path / "binary.toml")
