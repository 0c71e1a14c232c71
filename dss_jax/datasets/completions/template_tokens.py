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

  Only the first turn counts: a token that ends it ends the text.
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
  return _TOKEN.search(text) is not None or _THOUGHT.search(text) is not None


def _harmony(text: str) -> Said:
  """The channels of a Harmony answer: "final" is said, others are thought."""
  found = list(_CHANNEL.finditer(text))
  thoughts, said, is_whole = [], None, False
  for match, following in zip(found, [*found[1:], None]):
    end = following.start() if following else len(text)
    body = text[match.end() : end]
    token = _TOKEN.search(body)
    body = body[: token.start()] if token else body
    if match["name"] == "final" and said is None:
      said, is_whole = body.strip(), token is not None
    elif match["name"] != "final" and said is None:
      thoughts.append(body.strip())
  return Said(
    said or "",
    "\n".join(filter(None, thoughts)),
    is_thinking=said is None,
    is_whole=is_whole,
  )


def _tagged(text: str) -> Said:
  said, thoughts = [], []
  position, is_thinking, is_shown = 0, False, True
  for tag in _THOUGHT.finditer(text):
    piece = text[position : tag.start()]
    position = tag.end()
    is_end = any(tag[name] for name in ("slash", "slash2", "slash3")) or (
      tag["channel_end"] or (tag["edge"] or "").lower().startswith("end")
    )
    if is_end and not is_thinking:
      # The template itself began the thought: all until here was one.
      thoughts, said = [*thoughts, *said, piece], []
    else:
      (thoughts if is_thinking else said).append(piece)
    is_thinking = not is_end
    is_shown = is_shown and (tag["name"] or "").lower() in _SHOWN
  (thoughts if is_thinking else said).append(text[position:])
  spoken, is_whole = _first_turn(" ".join(said))
  thought = "\n".join(filter(None, map(_without_tokens, thoughts)))
  return Said(
    spoken,
    thought,
    is_thinking=is_thinking and not spoken,
    is_shown=is_shown and bool(thought),
    is_whole=is_whole,
  )


def _without_tokens(text: str) -> str:
  return _TOKEN.sub(" ", text).strip()


def _first_turn(text: str) -> tuple[str, bool]:
  """The text between the tokens that begin and end it, and if any ends it."""
  position = 0
  while True:
    rest = len(text) - len(text[position:].lstrip())
    token = _TOKEN.match(text, rest)
    if token is None:
      break
    role = _ROLE.match(text, token.end())
    position = role.end() if role else token.end()
  end = _TOKEN.search(text, position)
  return text[position : end.start() if end else None].strip(), end is not None
