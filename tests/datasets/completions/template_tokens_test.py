"""Thoughts and control tokens of current models, kept apart from the answer."""

import hypothesis
import pytest
from hypothesis import strategies as st

from dss_jax.datasets.completions.template_tokens import has_markup, take_apart

SAID = "Three and five make eight. The answer is 8."
THOUGHT = "Could be 9. The user wants a sum."


@pytest.mark.parametrize(
  "text",
  [
    f"<think>{THOUGHT}</think>{SAID}",
    f"<think>\n{THOUGHT}\n</think>\n\n{SAID}",
    f"{THOUGHT}</think>\n\n{SAID}",
    f"<thinking>{THOUGHT}</thinking>{SAID}",
    f"<Thought>{THOUGHT}</Thought>{SAID}",
    f"<reasoning>{THOUGHT}</reasoning>{SAID}",
    f"<scratchpad>{THOUGHT}</scratchpad>{SAID}",
    f"<reflection>{THOUGHT}</reflection>{SAID}",
    f"[THINK]{THOUGHT}[/THINK]{SAID}",
    f"<seed:think>{THOUGHT}</seed:think>{SAID}",
    f"<|begin_of_thought|>{THOUGHT}<|end_of_thought|>\n"
    f"<|begin_of_solution|>{SAID}<|end_of_solution|>",
    f"<|START_THINKING|>{THOUGHT}<|END_THINKING|>"
    f"<|START_RESPONSE|>{SAID}<|END_RESPONSE|>",
    f"\u25c1think\u25b7{THOUGHT}\u25c1/think\u25b7{SAID}",
    f"<|channel>thought\n{THOUGHT}<channel|>{SAID}<turn|>",
    f"<|channel|>analysis<|message|>{THOUGHT}<|end|><|start|>assistant"
    f"<|channel|>final<|message|>{SAID}<|return|>",
    f"<|start|>assistant<|channel|>analysis<|message|>{THOUGHT}<|end|>"
    f"<|start|>assistant<|channel|>final<|message|>{SAID}",
    f"analysis{THOUGHT}assistantfinal{SAID}",
    f"<think>{THOUGHT}</think>{SAID}<|im_end|>",
    f"<|im_start|>assistant\n<think>{THOUGHT}</think>{SAID}<|im_end|>\n"
    "<|im_start|>user\nNext?",
  ],
)
def test_thoughts_are_not_said(text):
  found = take_apart(text)
  assert (found.text, found.thoughts) == (SAID, THOUGHT)
  assert not found.is_thinking
  assert not has_markup(found.text)


@pytest.mark.parametrize(
  "text",
  [
    f"<s>{SAID}</s>",
    f"{SAID}<|eot_id|>",
    f"{SAID}<|im_end|>\n<|im_start|>user\nAnother?",
    f"<|start_header_id|>assistant<|end_header_id|>\n\n{SAID}<|eot_id|>",
    f"<start_of_turn>model\n{SAID}<end_of_turn>",
    f"<|assistant|>\n{SAID}<|end|>",
    f"<|start_of_role|>assistant<|end_of_role|>{SAID}<|end_of_text|>",
    f"<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{SAID}<|END_OF_TURN_TOKEN|>",
    f"{SAID}<\uff5cend\u2581of\u2581sentence\uff5c>",
    f"[/INST] {SAID}</s>[INST] Another? [/INST]",
    f"{SAID}<|endoftext|>Q: Something else.",
    f"{SAID} <eos>",
    "Three and five make eight. The answer is <|begin_of_box|>8<|end_of_box|>.",
    SAID,
  ],
)
def test_control_tokens_end_or_begin_what_is_said(text):
  found = take_apart(text)
  assert (found.text, found.thoughts) == (SAID, "")
  assert found.is_whole == (text != SAID and "box" not in text)


def test_a_thought_without_an_end_says_nothing():
  for text in (
    f"<think>{SAID}",
    f"[THINK]{SAID}",
    f"<think>{THOUGHT}</think><think>{SAID}",
    f"<|channel|>analysis<|message|>{SAID}",
  ):
    found = take_apart(text)
    assert found.is_thinking, text
    assert not found.text, text
    assert SAID in found.thoughts


@pytest.mark.parametrize(
  "text",
  [
    "It is <|im_start|> so. The answer is 8.",
    'From "a man.</s>a person." it follows. The answer is 8.',
    "I use <s>old</s> new. The answer is 8.",
    "Well <unk> it is. The answer is 8.",
    "The tag <analysis> is odd. The answer is 8.",
    "The <think> tag is odd. The answer is 8.",
    "The answer is 8. <think>Hm",
  ],
)
def test_what_a_text_may_be_about_stays_in_it(text):
  found = take_apart(text)
  assert found.text == text
  assert not found.thoughts
  assert has_markup(found.text)
  assert take_apart(f"<s><think>So.</think>{text}</s>").text == text


def test_a_turn_of_another_ends_the_first():
  for end in ("<|im_start|>user\n", "<|user|>", "[INST]", "</s><|im_end|>"):
    found = take_apart(f"R.{end}And? The answer is 8.")
    assert (found.text, found.is_whole) == ("R.", True)


def test_tags_in_which_a_rationale_may_be_asked_for():
  found = take_apart("<rationale>R.</rationale>\n<answer>8</answer>")
  assert (found.text, found.thoughts) == ("<answer>8</answer>", "R.")
  assert found.is_shown
  assert not take_apart("<think>R.</think>8").is_shown


def test_plain_text_is_left_alone():
  for text in (
    "a < b > c",
    "x <y> z",
    "if [a] then (b)",
    "<b>bold</b>",
    "1 <|2",
  ):
    assert take_apart(text).text == text
    assert not has_markup(text)


PIECES = st.sampled_from(
  ["<think>", "</think>", "[THINK]", "[/THINK]", "<|im_end|>", "<|channel|>",
   "final", "analysis", "<|message|>", "assistantfinal", "<|", "|>", "</s>", "R."]
)  # fmt: skip


@hypothesis.given(st.lists(PIECES | st.text(max_size=5)).map("".join))
def test_nothing_is_invented(text):
  found = take_apart(text)
  for piece in found.text.split():
    assert piece in text
