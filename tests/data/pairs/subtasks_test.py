"""Methods, sub-tasks, and labels found in outputs."""

import pytest

from dss_jax.base.errors import UserError
from dss_jax.data.pairs import subtasks, task_names
from dss_jax.data.pairs.subtasks import METHODS, MethodOptions, SubTask

FIELDS = {"input": "in {x}", "label": "yes", "rationale": "because"}


def texts(method: str, options: MethodOptions | None = None):
  options = options or MethodOptions()
  return {
    subtask.name: (
      subtasks.fill(subtask.input_parts(options), FIELDS),
      subtasks.fill(subtask.target_parts(options), FIELDS),
    )
    for subtask in METHODS[method].subtasks
  }


@pytest.mark.parametrize(
  ("method", "expected"),
  [
    ("standard", {"standard": ("in {x}", "yes")}),
    ("label", {"label": ("[label] in {x}", "yes")}),
    ("rationale", {"rationale": ("[rationale] in {x}", "because")}),
    (
      "dss",
      {
        "label": ("[label] in {x}", "yes"),
        "rationale": ("[rationale] in {x}", "because"),
      },
    ),
    (
      "rationale_then_label",
      {"rationale_then_label": ("in {x}", "because [label] yes")},
    ),
    (
      "label_then_rationale",
      {"label_then_rationale": ("in {x}", "yes [rationale] because")},
    ),
    (
      "rationale_as_input",
      {"rationale_as_input": ("in {x} [rationale] because", "yes")},
    ),
  ],
)
def test_what_each_method_reads_and_writes(method, expected):
  assert texts(method) == expected


def test_the_official_prefixes_are_two_options():
  options = MethodOptions(
    label_prefix="predict: ", rationale_prefix="explain: "
  )
  assert texts("dss_paired", options) == {
    "label": ("predict: in {x}", "yes"),
    "rationale": ("explain: in {x}", "because"),
  }
  assert METHODS["dss_paired"].paired
  assert not METHODS["dss"].paired


@pytest.mark.parametrize(
  ("rates", "expected"),
  [
    (None, (1.0, 1.0)),
    ({"label": 3}, (3.0, 1.0)),
    ({"label": 0.25, "rationale": 0.75}, (0.25, 0.75)),
    ({"rationale": 0}, (1.0, 0.0)),
  ],
)
def test_rates(rates, expected):
  assert METHODS["dss"].rates(MethodOptions(rates=rates)) == expected


@pytest.mark.parametrize(
  ("rates", "message"),
  [
    ({"label": -1}, "-1.*at least 0"),
    ({"label": float("nan")}, "nan"),
    ({"label": "2"}, "'2'"),
    ({"label": True}, "True"),
    ({"labels": 1}, "'labels'.*has label, rationale"),
    ({"label": 0, "rationale": 0}, "all rates"),
  ],
)
def test_wrong_rates_name_the_field(rates, message):
  with pytest.raises(UserError, match=message) as raised:
    METHODS["dss"].rates(MethodOptions(rates=rates))
  assert raised.value.fields == ("MethodOptions.rates",)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"rationale_filter": "good"}, "'good'.*non_empty, all, agrees"),
    ({"max_rationale_tokens": 0}, "max_rationale_tokens is 0"),
    ({"rationale_fraction": 1.5}, "rationale_fraction is 1.5.*from 0 to 1"),
    ({"rationale_weights": "off"}, "'off'.*as_given, equal"),
    ({"min_rationale_weight": float("nan")}, "is nan.*0 or more"),
    ({"unreadable_labels": "keep"}, "'keep'.*leave_out, blank"),
    ({"label_separator": " "}, "label_separator is ' '; it must not be blank"),
  ],
)
def test_wrong_options_name_the_field(arguments, message):
  with pytest.raises(UserError, match=message) as raised:
    MethodOptions(**arguments)
  assert raised.value.fields == (f"MethodOptions.{next(iter(arguments))}",)


def test_templates_are_checked():
  with pytest.raises(UserError, match="'choices'"):
    SubTask("mine", input_format="{input} {choices}")
  with pytest.raises(UserError, match="show the label"):
    SubTask("mine", input_format="{input} {label}")
  with pytest.raises(UserError, match=r"'input.__class__'"):
    SubTask("mine", input_format="{input.__class__}")


def test_a_project_can_add_a_method(monkeypatch):
  monkeypatch.setattr(subtasks, "METHODS", dict(METHODS))
  two_teachers = subtasks.Method(
    "two_teachers",
    (
      subtasks.LABEL,
      SubTask("palm", "[palm] {input}", "{rationale}", rationale_source="palm"),
    ),
  )
  subtasks.register_method(two_teachers)
  subtasks.register_method(two_teachers)
  parsed = task_names.parse_task_name("svamp_two_teachers_teacher")
  assert parsed == ("svamp", two_teachers, "teacher")
  with pytest.raises(UserError, match="exists with other"):
    subtasks.register_method(subtasks.Method("dss", (subtasks.LABEL,)))
  other = subtasks.Method("other", (SubTask("label", "{input}!"),))
  with pytest.raises(UserError, match="'label' of method 'other' exists"):
    subtasks.register_method(other)
  with pytest.raises(UserError, match="cannot name a method"):
    subtasks.register_method(subtasks.Method("my_teacher", ()))
