"""Draws labelled orders: `data/train.csv`, `validation.csv` and `test.csv`.

    python stand_in/make_data.py

In a project of your own these are your files, and this script does not exist.
"""

import csv
import pathlib
import random

import menu

SIZES = {"train": 500, "validation": 200, "test": 400}
_FORMS = (
  "{guest} orders {first} and {second}.",
  "{guest} would like {first}, then {second}.",
  "For {guest}: {first}, {second}.",
)


def draw(rng: random.Random, label: str) -> tuple[str, tuple[str, str]]:
  """An order with this label: a guest and two dishes."""
  guest = rng.choice(list(menu.GUESTS))
  while True:
    first, second = rng.sample(list(menu.DISHES), 2)
    if menu.answer(guest, (first, second)) == label:
      return guest, (first, second)


def text(rng: random.Random, guest: str, dishes: tuple[str, str]) -> str:
  """The order in words."""
  form = rng.choice(_FORMS)
  words = form.format(guest=guest, first=dishes[0], second=dishes[1])
  return words[0].upper() + words[1:]


def main() -> None:
  rng = random.Random(0)
  folder = pathlib.Path(__file__).parents[1] / "data"
  folder.mkdir(exist_ok=True)
  seen = set()
  for split, size in SIZES.items():
    rows = []
    while len(rows) < size:
      label = ("yes", "no")[len(rows) % 2]
      guest, dishes = draw(rng, label)
      # No order is in two splits, in whatever words.
      if (order := (guest, *sorted(dishes))) not in seen:
        seen.add(order)
        rows.append([text(rng, guest, dishes), label])
    with (folder / f"{split}.csv").open("w", newline="") as file:
      csv.writer(file).writerows([["order", "serve"], *rows])


if __name__ == "__main__":
  main()
