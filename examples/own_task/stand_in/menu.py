"""The kitchen that stands in for a business of yours: its dishes and rules.

It is made up, and nobody's dinner should depend on it. `make_data.py` draws
labelled orders from it, and `teacher.py` explains them.
"""

# Dish -> what it is made of.
DISHES = {
  "apple crumble": ("apples", "flour", "butter"),
  "baked potato": ("potatoes", "yoghurt"),
  "bean chilli": ("beans", "tomatoes", "onions"),
  "beef stew": ("beef", "carrots", "onions"),
  "carrot cake": ("carrots", "flour", "eggs", "walnuts"),
  "chicken curry": ("chicken", "rice", "coconut milk"),
  "couscous salad": ("couscous", "tomatoes", "almonds"),
  "fish pie": ("salmon", "potatoes", "cream"),
  "french toast": ("bread", "eggs", "butter"),
  "fruit salad": ("apples", "oranges", "grapes"),
  "garlic bread": ("bread", "garlic", "butter"),
  "greek salad": ("tomatoes", "olives", "cheese"),
  "lentil soup": ("lentils", "carrots", "onions"),
  "meringue": ("eggs", "sugar"),
  "mushroom risotto": ("rice", "mushrooms", "cheese"),
  "nut roast": ("walnuts", "mushrooms", "onions"),
  "omelette": ("eggs", "mushrooms", "butter"),
  "orange sorbet": ("oranges", "sugar"),
  "pad thai": ("noodles", "eggs", "peanuts"),
  "panna cotta": ("cream", "sugar"),
  "pea risotto": ("rice", "peas", "butter"),
  "pesto pasta": ("noodles", "cheese", "almonds"),
  "potato salad": ("potatoes", "eggs", "onions"),
  "ratatouille": ("tomatoes", "garlic", "olives"),
  "rice pudding": ("rice", "cream", "sugar"),
  "spring rolls": ("flour", "carrots", "peas"),
  "stuffed peppers": ("peppers", "beef", "rice"),
  "tomato soup": ("tomatoes", "garlic", "cream"),
  "tuna salad": ("tuna", "beans", "olives"),
  "vegetable curry": ("peas", "rice", "coconut milk"),
  "waldorf salad": ("apples", "grapes", "walnuts"),
  "wrap with hummus": ("flour", "garlic", "peppers"),
}

_MEAT = ("beef", "chicken")
_FISH = ("salmon", "tuna")
_MILK = ("butter", "cheese", "cream", "yoghurt")
_EGGS = ("eggs",)
# Guest -> what is not served to them.
GUESTS = {
  "a vegan": (*_MEAT, *_FISH, *_MILK, *_EGGS),
  "a vegetarian": (*_MEAT, *_FISH),
  "a guest without gluten": ("bread", "couscous", "flour", "noodles"),
  "a guest without milk": _MILK,
  "a guest without eggs": _EGGS,
  "a guest without nuts": ("almonds", "peanuts", "walnuts"),
}


def listed(words: tuple[str, ...]) -> str:
  """Words as a sentence lists them: `a, b and c`."""
  *most, last = words
  return f"{', '.join(most)} and {last}" if most else last


def unwanted(guest: str, dishes: tuple[str, ...]) -> tuple[str, ...]:
  """What is in the dishes and is not served to the guest."""
  found = [i for dish in dishes for i in DISHES[dish] if i in GUESTS[guest]]
  return tuple(dict.fromkeys(found))


def answer(guest: str, dishes: tuple[str, ...]) -> str:
  """Whether the order can be served as it is: `yes` or `no`."""
  return "no" if unwanted(guest, dishes) else "yes"


def reason(guest: str, dishes: tuple[str, ...]) -> str:
  """Why: what the dishes are made of, and what of it matters."""
  facts = [f"{dish} is made of {listed(DISHES[dish])}" for dish in dishes]
  against = unwanted(guest, dishes)
  ending = f"{guest} is served no {' and no '.join(against)}"
  return f"{'; '.join(facts)}; {ending if against else 'nothing is in the way'}"
