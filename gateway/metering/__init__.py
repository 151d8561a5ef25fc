"""Usage: what a request consumed, the immutable event that says so, and the drain into the books.

Owns reading usage out of answers, counting where an upstream does not say, the usage event and its
delivery, exactly once by request id, into the ledger. Does not own deciding (balance) or prices.
"""
