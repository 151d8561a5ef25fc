"""The books: accounts, transactions, entries, lots, usage rows; double entry, append-only, in SQL.

Owns the truth about money: what stands here is right and the hot balances are a copy of it. Two kinds
of book, balanced each on its own: the platform's (creators, cost) and each app's (its end users). Owns
grants, expiry, refunds, disputes, corrections, what apps owe the platform, the posting of usage, the outbox
of credits for the hot store, reading the books and their audit.
Does not own the hot balances, Stripe, prices, or the meaning of a usage event.

Sign of an entry: credits are positive, debits negative, and a transaction sums to zero per asset. So
`user.available` (what is owed to a wallet's owner) and revenue stand above zero, while expenses,
`stripe_clearing` and a debt (`receivable.clawback`) stand below.

A wallet's spendable money is available - debt. The hot store's `available` equals it, less the credits
that still wait, once every usage event is drained.
"""
