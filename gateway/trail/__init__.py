"""The audit trail: who changed what somebody may do, or moved money, when, why, from what to what.

Owns the chain of lines, its hashes, and the proof that it is whole. Does not own what is recorded:
identity, pricing and the ledger say that, each in the very transaction of the act (`store.append` takes
their connection), so there is no act without its line and no line without its act.

One chain a database, in that database. The platform's has what concerns creators, apps, keys and prices;
each app's has what names its end users (grants into their wallets, their tokens), because no end user's id
may stand in the platform's database, and because a line can be committed with its act only where the act
is. An app's default end user is named in the platform's lines by a digest alone, for the same reason.

Each line has the number after the line before it and the SHA-256 of the previous hash and all its fields
(`model.digest`). Writers take turns at the row `trail_head`, locked as the last thing that a transaction
locks, so two acts never follow the same line, and no lock is asked for while this one is held. The drain
writes no lines (usage is in the books, one transaction a request) and never takes that row: it waits for an
act no longer than it did before, for the book's own lock during a grant and for SQLite's one writer. What nobody asked
for is an act, too, where it moves money: a lot that ends (`lot.expire`, `lot.repay`) has a line with the role `system`.

What this shows: every change of a line, a line taken out, put in or moved, and, when a head was pinned
elsewhere, lines cut off the end. What it cannot show: that somebody with every right on the database wrote
the whole chain anew since the last pin. So pin heads, often, where that person cannot write.

Nothing secret is ever in a line: no key, no digest of one, no hint, no token.
"""
