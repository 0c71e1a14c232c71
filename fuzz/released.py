"""The officially released files, and ASDiv's own."""

from __future__ import annotations

import json

from dss_jax.datasets import asdiv_xml, released_data
from dss_jax.datasets.options import DataOptions
from fuzz.targets import Target, scratch

_ENTRIES = {
  "cqa": {
    "id": "a0",
    "question": "Where would you keep milk cold?",
    "choices": ["refrigerator", "oven", "shelf", "garden", "car"],
    "answer": "refrigerator",
    "abstractive_explanation": "a refrigerator is cold",
  },
  "svamp": {"Body": "He has 3.", "Question": "How many?", "Equation": "( 3 )"},
  "esnli": {
    "premise": "A man.",
    "hypothesis": "A person.",
    "label": 0,
    "explanation_1": "a man is a person",
  },
  "asdiv": {"Body": "3 and 4", "Question": "Sum?", "Answer": "7 (apples)"},
}
_DATASETS = tuple(_ENTRIES)
_COMPLETIONS = (
  "So the answer is (a) refrigerator.",
  "3 and 4. The answer is (3 + 4).\n\nQ: another",
  "A man is a person. Answer: entailment",
)
_XML = b"""<?xml version="1.0" encoding="utf-8"?>
<Machine><ProblemSet>
<Problem ID="nluds-0001" Grade="1" Source="x"><Body>Seven red apples.</Body>
<Question>How many?</Question><Solution-Type>Addition</Solution-Type>
<Answer>9 (apples)</Answer><Formula>7+2=9</Formula></Problem>
</ProblemSet></Machine>
"""


def _load(data: bytes) -> None:
  """The first byte names the dataset; NUL ends the entries."""
  dataset = _DATASETS[data[0] % len(_DATASETS)] if data else "cqa"
  entries, _, completions = data[1:].partition(b"\0")
  folder = scratch("data") / dataset
  (folder / "llm").mkdir(parents=True, exist_ok=True)
  (folder / f"{dataset}_train.json").write_bytes(entries)
  (folder / "llm" / "train_CoT_0.json").write_bytes(completions)
  for parser in ("official", "tolerant"):
    options = DataOptions(
      data_dir=str(folder.parent), parser=parser, rationale_source="palm+human"
    )
    released_data.load(dataset, "train", options)


def _load_seeds() -> list[bytes]:
  return [
    bytes([number])
    + b"\n".join([json.dumps(entry).encode()] * len(_COMPLETIONS))
    + b"\0"
    + json.dumps(_COMPLETIONS).encode()
    for number, entry in enumerate(_ENTRIES.values())
  ]


def _asdiv(data: bytes) -> None:
  path = scratch("ASDiv.xml")
  path.write_bytes(data)
  list(asdiv_xml.entries(path))


TARGETS = {
  "files": Target(
    _load,
    _load_seeds,
    ("question", "choices", "answer", "input", "premise", "context", "uid"),
  ),
  "asdiv_xml": Target(
    _asdiv,
    lambda: [_XML, _XML.decode().replace("utf-8", "utf-16").encode("utf-16")],
    ("<!DOCTYPE", "<!ENTITY", "&a;", "<![CDATA[", "]]>", "<Problem", "<Body>"),
  ),
}
