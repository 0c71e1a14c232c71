"""Tables of teachers, however wrong they are."""

import contextlib

import hypothesis
import pytest
from hypothesis import strategies as st

from dss_jax.base.errors import UserError
from dss_jax.datasets import DataOptions
from dss_jax.rationales import prompt_files
from dss_jax.rationales.extraction_plan import Endpoint
from dss_jax.rationales.teacher_tables import read_tables, teacher_plan


def tables(tmp_path, text):
  path = tmp_path / "teachers.toml"
  path.write_bytes(text if isinstance(text, bytes) else text.encode())
  return read_tables(str(path))


def plan(table, flags=None, *, dataset=None, options=None):
  return teacher_plan(
    (flags or {}) | table,
    dataset=dataset,
    split="train",
    options=options or DataOptions(),
    prompt=prompt_files.load("taxonli"),
  )


def test_what_a_table_leaves_out_the_flags_say(tmp_path):
  first, second = tables(
    tmp_path,
    """
    [[teacher]]
    model = "a"
    samples = 3
    temperature = 1
    stop = ['\\n\\n']
    extra_body = {top_k = 5}
    omit_fields = ["seed"]
    [[teacher]]
    name = "second"
    """,
  )
  flags = {"model": "b", "temperature": 0.5, "seed": 7, "concurrency": 2}
  flags |= {"stop": None, "extra_body": "{}", "omit_fields": "", "name": None}
  made = plan(first, flags)
  assert isinstance(made.teacher, Endpoint)
  assert (made.teacher.name, made.teacher.model) == ("a", "a")
  assert made.teacher.omit_fields == ("seed",)
  assert (made.samples, made.ask.concurrency) == (3, 2)
  assert (made.sampling.temperature, made.sampling.seed) == (1, 7)
  assert made.sampling.stop == ("\n\n",)
  assert made.sampling.extra == {"top_k": 5}
  made = plan(second, flags)
  assert (made.teacher.name, made.teacher.model) == ("second", "b")
  assert (made.samples, made.sampling.temperature) == (1, 0.5)


def test_teachers_that_know_records(fixtures):
  options = DataOptions(data_dir=str(fixtures / "release"))
  made = plan({"teacher": "replay"}, dataset="cqa", options=options)
  assert (made.teacher.name, made.knows_records) == ("palm", True)
  made = plan(
    {"teacher": "replay", "rationale_source": "gpt-neox", "weight": 0.5},
    dataset="svamp",
    options=options,
  )
  assert (made.teacher.name, made.teacher.weight) == ("gpt-neox", 0.5)
  for rate in (0.0, 0.5):
    made = plan({"teacher": "rules", "error_rate": rate}, dataset="taxonli")
    assert made.teacher.name == "rules"
  made = plan(
    {"teacher": "rules", "name": "sloppy", "error_rate": 1}, dataset="taxonli"
  )
  assert made.teacher.name == "sloppy"


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("", r"must hold \[\[teacher\]\] tables only"),
    ("[teacher]\nmodel = 'a'", r"must hold \[\[teacher\]\]"),
    ("teacher = []", r"must hold \[\[teacher\]\]"),
    ("teacher = [3]", "with two brackets"),
    ("x = 1\n[[teacher]]\nmodel = 'a'", r"must hold \[\[teacher\]\]"),
    ("[[teacher]]\nmodle = 'a'", "unknown key 'modle'; allowed: teacher, name"),
    ("[[teacher]]\nmodel = 3", "model is 3; it must be a string"),
    ("[[teacher]]\nsamples = true", "samples is True"),
    ("[[teacher]]\nsamples = 1.5", "samples is 1.5; it must be a whole number"),
    ("[[teacher]]\nstop = [1]", "it must be a list, each a string"),
    ("[[teacher]]\napi_key = 'sk-canary'", "unknown key 'api_key'"),
    ("[[teacher", "not valid TOML"),
    (b"\xff", "not valid UTF-8"),
    (b"x" * (1 << 21), "more than 1048576 bytes"),
    ("x = " + "[" * 10_000, "not valid TOML"),
  ],
)
def test_files_that_are_none(tmp_path, text, message):
  with pytest.raises(UserError, match=message) as caught:
    tables(tmp_path, text)
  assert "\n" not in str(caught.value)
  assert len(str(caught.value)) < 1000
  assert "sk-canary" not in str(caught.value)


def test_no_file(tmp_path):
  with pytest.raises(UserError, match="No such file"):
    read_tables(str(tmp_path / "absent.toml"))
  with pytest.raises(UserError, match="Is a directory"):
    read_tables(str(tmp_path))


@pytest.mark.parametrize(
  ("table", "message"),
  [
    ({}, "no model is named"),
    ({"teacher": "oracle"}, "teacher is 'oracle'; it must be one of endpoint"),
    ({"teacher": "replay"}, "is for a released dataset"),
    ({"teacher": "rules"}, "knows the dataset taxonli only"),
    ({"model": "a", "temperature": float("inf")}, "temperature is inf"),
    ({"model": "a", "top_p": -0.1}, "top_p is -0.1"),
    ({"model": "a", "max_tokens": 0}, "max_tokens is 0"),
    ({"model": "a", "weight": float("nan")}, "weight is nan"),
    ({"model": "a", "concurrency": 0}, "concurrency is 0"),
    ({"model": "a", "timeout_s": float("inf")}, "timeout_s is inf"),
  ],
)
def test_wrong_values(table, message):
  with pytest.raises(UserError, match=message):
    plan(table)


@hypothesis.given(
  st.dictionaries(
    st.sampled_from(
      ["model", "samples", "temperature", "weight", "stop", "extra_body",
       "max_tokens", "seed", "timeout_s", "style", "omit_fields", "top_p"]
    ),
    st.one_of(
      st.integers(), st.floats(), st.text(max_size=5),
      st.lists(st.text(max_size=3), max_size=2),
      st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    ),
  )
)  # fmt: skip
@hypothesis.settings(max_examples=60, deadline=None)
def test_any_table_is_a_plan_or_a_line(tmp_path_factory, table):
  from dss_jax.rationales import teacher_tables

  with contextlib.suppress(UserError):
    for key, value in table.items():
      teacher_tables._check("here", key, value)
    plan(table, {"model": "m"})
