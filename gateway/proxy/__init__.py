"""The data plane: the wire, the straight line of one exchange, the relay, and errors in the client's dialect.

Owns what a request looks like and in which order the rooms below are asked. Does not own SQL, prices,
what a key may do, or any adapter: those are handed to it by the composer.
"""
