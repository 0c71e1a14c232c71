"""Coverage-guided fuzzing of every parser of outside data, with Atheris.

    make fuzz
    python -m fuzz --seconds=60 records.jsonl tables.csv

`targets` says what a target is; each other module holds those of a family of
parsers. What a run finds is kept as a plain test next to the parser's others.
"""
