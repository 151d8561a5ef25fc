"""What one request costs, counted instead of timed: the same numbers on every machine.

Counted are Python function calls, calls into C, bytecodes, JSON parses, Redis round trips with their commands and bytes,
SQL statements, upstream connections, and body-sized blocks of memory. `python -m bench.counts` prints them step by step
of the exchange; `tests/path/test_counts.py` holds them against `bench/results/counts.json`.
"""
