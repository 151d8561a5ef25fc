"""What the rows that requests leave become."""

from collections import deque

from gateway.proxy.meter import BOUNDS_S, Meter, Seen


def test_rows_become_counts_and_times_by_model_once() -> None:
    seen: deque[Seen] = deque()
    meter = Meter(seen)
    seen.append(("/chat/completions", "m", "m/openai/0", 200, 10.0, 10.2, 12.0))
    seen.append(("/chat/completions", "m", "m/openai/1", 200, 20.0, 20.005, 420.0))
    seen.append(("/chat/completions", "m", "", 402, 30.0, 0.0, 30.1))
    seen.append(("/chat/completions", "", "", 401, 30.0, 0.0, 30.1))
    meter.count()
    meter.count()
    assert not seen
    name = "chat/completions", "m"
    assert meter.requests == {(*name, 200): 2, (*name, 402): 1, ("chat/completions", "", 401): 1}
    assert meter.served == {"m/openai/0": 1, "m/openai/1": 1}
    times, waits = meter.latency[name], meter.first_byte[name]
    assert (sum(times.counts), times.counts[-1], times.counts[BOUNDS_S.index(2.5)], times.sum_s) == (2, 1, 1, 402.0)
    assert (waits.counts[BOUNDS_S.index(0.25)], sum(waits.counts[:2])) == (1, 1)


def test_names_that_clients_make_up_become_one_behind_the_first_hundreds() -> None:
    seen: deque[Seen] = deque()
    meter = Meter(seen)
    for number in range(2000):
        seen.append(("/embeddings", f"made-up-{number}", f"*/openai/0=made-up-{number}", 200, 0.0, 0.1, 0.2))
    meter.count()
    assert len(meter.requests) == len(meter.latency) == len(meter.served) == 501
    assert meter.requests["embeddings", "other", 200] == meter.served["other"] == 1500
