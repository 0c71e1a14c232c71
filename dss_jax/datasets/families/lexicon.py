"""The words that generated questions are made of, and what is true of them."""

from __future__ import annotations

from collections.abc import Mapping

# kind -> its words. No word is of two kinds.
KINDS: Mapping[str, tuple[str, ...]] = {
  "animal": (
    "poodle",
    "horse",
    "rabbit",
    "eagle",
    "salmon",
    "beetle",
    "camel",
    "owl",
  ),
  "tool": (
    "hammer",
    "wrench",
    "drill",
    "chisel",
    "saw",
    "screwdriver",
    "clamp",
    "pliers",
  ),
  "fruit": (
    "apple",
    "banana",
    "cherry",
    "mango",
    "peach",
    "plum",
    "pear",
    "grape",
  ),
  "vegetable": (
    "carrot",
    "potato",
    "onion",
    "cabbage",
    "radish",
    "turnip",
    "leek",
    "pumpkin",
  ),
  "flower": (
    "rose",
    "tulip",
    "daisy",
    "orchid",
    "lily",
    "violet",
    "poppy",
    "iris",
  ),
  "garment": (
    "shirt",
    "coat",
    "skirt",
    "sweater",
    "jacket",
    "scarf",
    "glove",
    "sock",
  ),
  "instrument": (
    "violin",
    "flute",
    "trumpet",
    "guitar",
    "harp",
    "cello",
    "drum",
    "oboe",
  ),
  "worker": (
    "nurse",
    "farmer",
    "lawyer",
    "plumber",
    "dentist",
    "baker",
    "pilot",
    "tailor",
  ),
}
KIND_OF: Mapping[str, str] = {
  word: kind for kind, words in KINDS.items() for word in words
}
WORDS = tuple(KIND_OF)

# Where things of a kind are found.
PLACE_OF_KIND: Mapping[str, str] = {
  "animal": "zoo",
  "tool": "shed",
  "fruit": "orchard",
  "vegetable": "field",
  "flower": "garden",
  "garment": "boutique",
  "instrument": "orchestra",
  "worker": "office",
}

# How large things are, from the smallest.
SIZES = ("tiny", "small", "medium", "large", "huge")
THINGS_BY_SIZE: Mapping[str, tuple[str, ...]] = {
  "tiny": ("pea", "coin", "button", "pill", "ant", "needle", "bead", "seed"),
  "small": (
    "apple",
    "glove",
    "mouse",
    "cup",
    "spoon",
    "candle",
    "onion",
    "egg",
  ),
  "medium": (
    "cat",
    "boot",
    "violin",
    "helmet",
    "pillow",
    "kettle",
    "melon",
    "hen",
  ),
  "large": (
    "dog",
    "chair",
    "harp",
    "bicycle",
    "goat",
    "stove",
    "desk",
    "canoe",
  ),
  "huge": (
    "horse",
    "piano",
    "truck",
    "camel",
    "tractor",
    "whale",
    "bus",
    "tent",
  ),
}
# What holds things up to a size.
HOLDERS_BY_SIZE: Mapping[str, tuple[str, ...]] = {
  "small": ("pocket", "purse", "jar", "mug", "pouch", "bowl"),
  "medium": ("drawer", "basket", "suitcase", "bucket", "backpack", "oven"),
  "large": ("wardrobe", "van", "elevator", "closet", "crate", "cellar"),
}
SIZE_OF: Mapping[str, str] = {
  word: size
  for by_size in (THINGS_BY_SIZE, HOLDERS_BY_SIZE)
  for size, words in by_size.items()
  for word in words
}

NAMES = ("ben", "ann", "tom", "eve", "sam", "kim", "leo", "ida")
# Animals and how many arms or legs each has, for sums.
LIMBS: Mapping[str, tuple[str, int]] = {
  "starfish": ("arms", 5),
  "spiders": ("legs", 8),
  "dogs": ("legs", 4),
  "hens": ("legs", 2),
  "beetles": ("legs", 6),
}


def article(word: str) -> str:
  """The indefinite article of a word."""
  return "an" if word[0] in "aeio" else "a"


def listing(words: tuple[str, ...] | list[str]) -> str:
  """`a wrench , a sweater and a shirt`, with spaces around each token."""
  parts = [f"{article(word)} {word}" for word in words]
  return " , ".join(parts[:-1]) + f" and {parts[-1]}"
