"""Prices: books of effective-dated rates, and the arithmetic on them. Pure integers, one rounding, up.

Owns `Rates`, the books and where a rate comes from (shipped list, configuration, an app's own
prices). Does not own tokens counts or wallets.
"""
