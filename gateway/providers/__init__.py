"""Upstreams: which deployment serves a model, and talking to it. Bytes in, bytes out.

Owns deployments, the choice among them, connections, time-outs and upstream faults. Does not own money.
"""
