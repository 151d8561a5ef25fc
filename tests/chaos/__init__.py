"""Parts of the gateway are killed for real, under load: nothing that was answered is lost, nothing is there twice.

The parts are processes: `gateway serve`, `gateway worker`, Redis, Postgres, a scripted provider. Between each two
stands a tap (`taps`), which sees the bytes go by and knows from them what is happening: a hold is being asked for,
a debit was made and its reply is on the way, a commit is sent. At such a step, the n-th time it comes by, one of the
parts gets SIGKILL, before or after the bytes are passed on. The product knows nothing of this.

Afterwards what died is started again on the same data, the load ends, and `books` holds three stories against each
other: what clients were told, what the provider served, what the books and the hot balances say. The rule:

    a request a client saw answered        one usage row, `served`, at the price the client was told
    a request cut off in mid-answer        one usage row at most; the provider served it, and a gateway died
    served by the provider, not answered   one usage row (settled before the death, or `abandoned` for nothing),
                                           or none where the hold was given back because the provider's answer broke
    never at the provider                  no row but an `abandoned` one, which costs nothing

Every wallet is what was paid in less what the rows charge, in Redis as in SQL; no hold is left.

Time is not waited for where it would be a minute or an hour: a dead gateway's holds are made due, and what a dead
worker had claimed is made old, by writing the time into Redis. The product's own sweeper and reclaiming do the rest.

Only processes die here, never the machine: what the kernel was given is kept. Postgres runs with `fsync` off for that
reason, and with `synchronous_commit` on, as a process's own buffers die with it. Redis runs with `appendfsync always`
and `everysec` in turns, on a file in memory. `everysec` is not safe on every disk, even if only the process dies: while
its once-a-second sync is under way (two seconds at most) it answers before it has given the kernel what it answered. A
sync in memory takes no time, so here nothing may be lost under either.
"""
