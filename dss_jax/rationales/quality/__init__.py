"""How good rationales are: counted, in the terminal and as a page."""
