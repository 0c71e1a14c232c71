"""The canteen that stands in for a business of yours: its dishes and rules.

`make_data.py` draws rated menus from it, and `teacher.py` explains them.
"""

# What a dish is made of, in the main -> the dishes.
DISHES_OF = {
  "rice": (
    *("arancini", "biryani", "congee", "jambalaya"),
    *("nasi goreng", "paella", "pilaf", "risotto"),
  ),
  "wheat": (
    *("bulgur salad", "cannelloni", "carbonara", "couscous"),
    *("dumplings", "lasagne", "pizza", "ravioli"),
  ),
  "potatoes": (
    *("colcannon", "croquettes", "gnocchi", "hash browns"),
    *("latkes", "raclette", "roesti", "vichyssoise"),
  ),
  "beans": (
    *("baked fagioli", "cassoulet", "chilli", "dal"),
    *("falafel", "feijoada", "hummus", "tempeh"),
  ),
  "maize": (
    *("arepas", "grits", "johnnycakes", "nachos"),
    *("polenta", "pozole", "succotash", "tamales"),
  ),
  "eggs": (
    *("frittata", "menemen", "meringue", "omelette"),
    *("quiche", "scotch woodcock", "shakshuka", "souffle"),
  ),
  "fish": (
    *("bouillabaisse", "ceviche", "gravlax", "kippers"),
    *("laksa", "rollmops", "sashimi", "taramosalata"),
  ),
  "beef": (
    *("bourguignon", "bresaola", "bulgogi", "goulash"),
    *("pastrami", "rendang", "sauerbraten", "stroganoff"),
  ),
}
MADE_OF = {dish: of for of, dishes in DISHES_OF.items() for dish in dishes}

# By how many things the dishes of a menu are made of.
RATINGS = {1: "poor", 2: "fair", 3: "good"}
_ENDINGS = {
  "poor": "all are alike",
  "fair": "two are alike",
  "good": "all are different",
}


def rating(dishes: tuple[str, ...]) -> str:
  """How varied a menu of three dishes is: `good`, `fair` or `poor`."""
  return RATINGS[len({MADE_OF[dish] for dish in dishes})]


def reason(dishes: tuple[str, ...]) -> str:
  """Why: what each dish is made of, and what follows."""
  facts = [f"{dish} is made of {MADE_OF[dish]}" for dish in dishes]
  return f"{'; '.join(facts)}; {_ENDINGS[rating(dishes)]}"
