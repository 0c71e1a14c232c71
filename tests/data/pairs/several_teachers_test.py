"""Several teachers as sub-tasks: names, texts, and whose rationales they are."""

import pytest

from dss_jax import vocabularies
from dss_jax.base.errors import UserError
from dss_jax.data.pairs import subtasks, task_names
from dss_jax.data.pairs.several_teachers import several_teachers
from dss_jax.data.pairs.subtasks import MethodOptions
from dss_jax.data.tokens import tokenization
from dss_jax.datasets import DataOptions


@pytest.fixture(autouse=True)
def _forget(monkeypatch):
  monkeypatch.setattr(subtasks, "METHODS", dict(subtasks.METHODS))


def test_the_method_and_its_names():
  name = several_teachers(
    ("palm", "Qwen/Qwen3-8B"), prefixes={"palm": "{palm}: "}
  )
  assert name == "dss_palm_Qwen_Qwen3_8B"
  assert several_teachers(("palm", "Qwen/Qwen3-8B"), {"palm": "{palm}: "})
  method = subtasks.METHODS[name]
  assert [s.name for s in method.subtasks] == [
    "label", "rationale_palm", "rationale_Qwen_Qwen3_8B",
  ]  # fmt: skip
  assert [s.rationale_source for s in method.subtasks] == [
    None, "palm", "Qwen/Qwen3-8B",
  ]  # fmt: skip
  fields = {"input": "x", "label": "y", "rationale": "r"}
  assert [
    subtasks.fill(s.input_parts(MethodOptions()), fields)
    for s in method.subtasks
  ] == ["[label] x", "{palm}: x", "[Qwen/Qwen3-8B] x"]
  parsed = task_names.get_task(f"svamp_{name}_teacher")
  assert parsed == ("svamp", method, "teacher")
  assert task_names.get_task("svamp_rationale_palm").method.subtasks == (
    method.subtasks[1],
  )
  assert method.rates(MethodOptions(rates={"rationale_palm": 2})) == (1, 2, 1)


def test_pairs_have_a_name_of_their_own():
  assert several_teachers(("a", "b"), paired=True) == "dss_paired_a_b"
  assert subtasks.METHODS["dss_paired_a_b"].paired


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"teachers": ()}, r"teachers is \(\)"),
    ({"teachers": "palm"}, "teachers is 'palm'; it must be a list"),
    ({"teachers": ("palm", "--")}, "must be a list of the sources"),
    ({"teachers": ("a-b", "a_b")}, "would be the same: a_b, a_b"),
    ({"teachers": ("a", "a")}, "would be the same"),
    ({"teachers": ("a",), "prefixes": {"b": ""}}, "'b', which is none of"),
  ],
)
def test_what_cannot_be(arguments, message):
  with pytest.raises(UserError, match=message):
    several_teachers(**arguments)


def test_another_configuration_may_have_other_prefixes():
  """A sweep reads many in one process. Methods of others are not replaced."""
  name = several_teachers(("a", "b"))
  assert several_teachers(("a", "b"), prefixes={"a": "a: "}) == name
  _, first, second = subtasks.METHODS[name].subtasks
  assert (first.input_format, second.input_format) == (
    "a: {input}",
    "[b] {input}",
  )
  assert subtasks.METHODS["rationale_a"].subtasks == (first,)
  own = subtasks.Method("dss_c", (subtasks.LABEL,))
  subtasks.register_method(own)
  with pytest.raises(UserError, match="exists with other"):
    several_teachers(["c"])


def test_each_teachers_rationales_of_the_released_data(fixtures):
  release = fixtures / "release"
  name = several_teachers(("palm", "gpt-neox"))
  bytes_ = vocabularies.from_name("bytes")

  def texts(task, source):
    found = tokenization.build_examples(
      task,
      "train",
      bytes_,
      DataOptions(data_dir=str(release), rationale_source=source),
    )
    return {
      subtask.name: [
        tuple(bytes_.decode(side.tolist()) for side in subtask.example(i))
        for i in range(len(subtask))
      ]
      for subtask in found.subtasks
    }

  both = texts(f"svamp_{name}", "palm+gpt-neox")
  assert list(both) == ["label", "rationale_palm", "rationale_gpt_neox"]
  for source in ("palm", "gpt-neox"):
    alone = texts("svamp_dss", source)
    assert both["label"] == alone["label"]
    assert both[f"rationale_{source.replace('-', '_')}"] == [
      (inputs.replace("[rationale]", f"[{source}]"), targets)
      for inputs, targets in alone["rationale"]
    ]
  assert both["rationale_palm"] != both["rationale_gpt_neox"]


def test_a_teacher_that_nobody_is_gives_no_examples(fixtures):
  name = several_teachers(("palm", "llama"))
  found = tokenization.build_examples(
    f"svamp_{name}",
    "train",
    vocabularies.from_name("bytes"),
    DataOptions(data_dir=str(fixtures / "release")),
  )
  assert [len(subtask) > 0 for subtask in found.subtasks] == [True, True, False]
