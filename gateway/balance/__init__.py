"""Hot balances: who may spend now. Reserve, settle, release, credit, open, sweep; each atomic, each at most once.

Owns the Redis-protocol server's data: wallets, holds, limit counters, and the stream of usage events
that `settle` appends in the same step as the debit. Does not own history (the ledger does; a wallet
here is a copy that can be rebuilt), prices, or the meaning of an event (bytes to this room).
"""
