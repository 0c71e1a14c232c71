"""What chat templates and reasoning models leave around an answer.

A server that does not know a model's template hands out its control tokens and
its thoughts as text. Here they are taken apart: what was thought, and what was
said. Tokens are known by their form (`<|...|>` and its relatives), thoughts by
the words in their tags, so that most new models need no change.
"""

from __future__ import annotations

import dataclasses
import re

# `<think>`, `</thinking>`, `[THINK]`, `<|begin_of_thought|>`, `<seed:think>`,
# `<|START_THINKING|>`, `<|channel>thought` and others.
_THOUGHT = re.compile(
  r"<\|?(?P<slash>/)?(?:[a-z]{1,9}:)?(?P<edge>begin_of_|start_|end_of_|end_)?"
  r"(?P<name>think(?:ing)?|thoughts?|reasoning|reflection|scratchpad"
  r"|inner_(?:thoughts|monologue)|rationale|explanation|analysis)\|?>"
  r"|\[(?P<slash2>/)?THINK(?:ING)?\]"
  r"|\u25c1(?P<slash3>/)?think\u25b7"
  r"|(?P<channel>(?-i:<\|channel>)thought\b)|(?P<channel_end><channel\|>)",
  re.I,
)
# Tags in which a prompt may ask for the rationale itself.
_SHOWN = ("reasoning", "rationale", "explanation", "analysis")

_TOKEN = re.compile(
  r"<\|[^|<>\s]{1,64}\|?>|<[^|<>\s]{1,64}\|>|<\uff5c[^\uff5c<>\n]{1,64}\uff5c>"
  r"|</?s>|<(?:bos|eos|pad|unk|mask|sep|cls)>|<(?:start|end)_of_turn>"
  r"|<(?:seed|mm|ant|bos|eos):[a-z]{1,16}>|\[/?INST\]|<</?SYS>>"
  r"|\[/?(?:SYSTEM_PROMPT|TOOL_CALLS|TOOL_RESULTS|AVAILABLE_TOOLS)\]"
)
# Tokens that end a turn; with others, a text may only be about them.
_END = re.compile(
  r"end|eo[stm](?=[_|>])|return|^<turn\||^\[INST\]|^<\|(?:user|human|system)\|",
  re.I,
)
_NEXT_ROLE = re.compile(r"\s{0,3}(?:user|human|system|tool)\b")
# What a turn of a template begins with, after its token.
_ROLE = re.compile(r"(?:assistant|model|final|response|output)\b[ \t]*")
# Around an answer within a turn.
_BOX = re.compile(r"<\|(?:begin|end)_of_box\|>")
# OpenAI's Harmony format, whole and with its tokens lost.
_CHANNEL = re.compile(
  r"<\|channel\|>\s*(?P<name>[a-z]{1,20})[^<]{0,80}"
  r"(?:<\|constrain\|>[^<]{0,40})?<\|message\|>"
)
_BARE_ANALYSIS = re.compile(r"\s*analysis(?=[A-Z\s])")
_BARE_FINAL = "assistantfinal"


@dataclasses.dataclass(frozen=True)
class Said:
  """A completion, taken apart.

  Attributes:
    text: what was said, without thoughts and tokens.
    thoughts: what was thought before; "" for nothing.
    is_thinking: whether the text ends within a thought, so that nothing was
      said after it.
    is_shown: whether the thoughts stood in tags that a prompt may have asked
      for, such as <rationale>.
    is_whole: whether a token says that the turn ended.
  """

  text: str
  thoughts: str = ""
  is_thinking: bool = False
  is_shown: bool = False
  is_whole: bool = False


def take_apart(completion: str) -> Said:
  """Divides a completion into what was thought and what was said.

  Only the first turn counts: a token that ends it ends the text. Other tokens,
  and tags that open no thought, stay within it: the text may be about them.
  """
  text = _BOX.sub("", completion)
  if "<|message|>" in text and "<|channel|>" in text:
    return _harmony(text)
  if (begin := _BARE_ANALYSIS.match(text)) and _BARE_FINAL in text:
    thoughts, _, text = text[begin.end() :].partition(_BARE_FINAL)
    return Said(text.strip(), thoughts.strip())
  return _tagged(text)


def has_markup(text: str) -> bool:
  """Whether a text still holds tokens or tags of thoughts."""
  return first_markup(text) is not None


def first_markup(text: str, start: int = 0) -> int | None:
  """Where the first token or tag of a thought stands at `start` or later."""
  found = (_TOKEN.search(text, start), _THOUGHT.search(text, start))
  return min((match.start() for match in found if match), default=None)


def without_tokens(text: str) -> str:
  """The text without control tokens."""
  return _TOKEN.sub(" ", text).strip()


def _harmony(text: str) -> Said:
  """The channels of a Harmony answer: "final" is said, others are thought."""
  found = list(_CHANNEL.finditer(text))
  thoughts, said, is_whole = [], None, False
  for match, following in zip(found, [*found[1:], None]):
    end = following.start() if following else len(text)
    body, ends = _first_turn(text[match.end() : end])
    if match["name"] == "final" and said is None:
      said, is_whole = body, ends
    elif match["name"] != "final" and said is None:
      thoughts.append(body)
  return Said(
    said or "",
    "\n".join(filter(None, thoughts)),
    is_thinking=said is None,
    is_whole=is_whole,
  )


def _tagged(text: str) -> Said:
  said: list[str] = []
  thoughts: list[str] = []
  position, is_thinking, is_shown = 0, False, True
  opened, before = 0, 0  # where the thought began, and how many came before it
  for tag in _THOUGHT.finditer(text):
    piece = text[position : tag.start()]
    position = tag.end()
    is_end = any(tag[name] for name in ("slash", "slash2", "slash3")) or (
      tag["channel_end"] or (tag["edge"] or "").lower().startswith("end")
    )
    if is_end and not is_thinking:
      # The template itself began the thought: all until here was one.
      thoughts += [*said, piece]
      said.clear()
    else:
      (thoughts if is_thinking else said).append(piece)
    if not is_end and not is_thinking:
      opened, before = tag.start(), len(thoughts)
    is_thinking = not is_end
    is_shown = is_shown and (tag["name"] or "").lower() in _SHOWN
  if is_thinking and any(piece.strip() for piece in said):
    # Words before it, and no end: it may be a mere word, "the tag <think>".
    del thoughts[before:]
    said[-1] += text[opened:]
    is_thinking = False
  else:
    (thoughts if is_thinking else said).append(text[position:])
  spoken, is_whole = _first_turn(" ".join(said))
  thought = "\n".join(filter(None, map(without_tokens, thoughts)))
  return Said(
    spoken,
    thought,
    is_thinking=is_thinking and not spoken,
    is_shown=is_shown and bool(thought),
    is_whole=is_whole,
  )


def _first_turn(text: str) -> tuple[str, bool]:
  """The text between the tokens that begin and end it, and if any ends it."""
  start = 0
  tokens = list(_TOKEN.finditer(text))
  for token in tokens:
    if text[start : token.start()].strip():
      break
    role = _ROLE.match(text, token.end())
    start = role.end() if role else token.end()
  end = len(text)
  tokens = [token for token in tokens if token.start() >= start]
  for i, token in enumerate(tokens):
    if _END.search(token[0]) or _NEXT_ROLE.match(text, token.end()):
      end, tokens = token.start(), tokens[:i]
      break
  for token in reversed(tokens):
    if text[token.end() : end].strip():
      break
    end = token.start()
  return text[start:end].strip(), end < len(text)
