"""Vocabulary every room shares: money, units, ids, errors, limits, clock. No I/O, no state.

Owns what the words mean. Does not own any rule that needs to know a caller, a price or a store.
"""
