"""Mutated inputs of every kind, each through the verb that reads it: a line or the right result, and nothing else.

    python -m tests.fuzz --verb pretrain --seed 123           one case again, told in full
    python -m tests.fuzz --cases 2000 --seed0 0 --jobs 2      many cases, with a summary by kind

A case is determined by its verb and seed. `subjects.py` makes what is mutated, the `mutate_*.py` files mutate it,
`scenarios.py` says how a verb reads it and what is right, `verb_process.py` runs a case in a forked child with limits.
"""
