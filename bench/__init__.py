"""The benchmark: the gateway side by side with a plain nginx, in one run, on one machine.

`python -m bench` measures and writes `bench/results/`; `python -m bench profile` says where the gateway's
CPU time goes. The gateway (or its rival of the moment) has one core to itself; load, upstream, Redis and
the worker share the others. CPU time per request and the ratios are the figures, as they are the
steadiest; wall-clock figures stand beside them.
"""
