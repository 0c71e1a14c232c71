"""Draws rated menus: `data/train.csv`, `validation.csv` and `test.csv`.

    python stand_in/make_data.py

In a project of your own these are your files, and this script does not exist.
"""

import csv
import pathlib
import random

import kitchen

SIZES = {"train": 510, "validation": 210, "test": 420}
_FORMS = (
  "Monday {0}, Tuesday {1}, Wednesday {2}.",
  "First {0}, then {1}, and {2} at the end.",
  "Three days of {0}, {1} and {2}.",
)


def draw(rng: random.Random, label: str) -> tuple[str, ...]:
  """Three dishes, whose menu has this label."""
  pattern = {"good": (0, 1, 2), "fair": (0, 0, 1), "poor": (0, 0, 0)}[label]
  kinds = rng.sample(list(kitchen.DISHES_OF), 3)
  left = {of: list(kitchen.DISHES_OF[of]) for of in kinds}
  for dishes in left.values():
    rng.shuffle(dishes)
  menu = [left[kinds[index]].pop() for index in pattern]
  rng.shuffle(menu)
  return tuple(menu)


def main() -> None:
  rng = random.Random(0)
  folder = pathlib.Path(__file__).parents[1] / "data"
  folder.mkdir(exist_ok=True)
  labels = list(kitchen.RATINGS.values())
  seen = set()
  for split, size in SIZES.items():
    rows = []
    while len(rows) < size:
      label = labels[len(rows) % len(labels)]
      dishes = draw(rng, label)
      # The same dishes are in no other split, in whatever order and words.
      if (menu := frozenset(dishes)) not in seen:
        seen.add(menu)
        rows.append([rng.choice(_FORMS).format(*dishes), label])
    with (folder / f"{split}.csv").open("w", newline="") as file:
      csv.writer(file).writerows([["menu", "variety"], *rows])


if __name__ == "__main__":
  main()
