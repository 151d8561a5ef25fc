"""Samples are shared out among the steps of an exchange."""

from bench.profile import Work, _from_stacks

STACKS = """\
thread (0x7F): "MainThread";run (uvicorn/server.py);run_asgi (gateway/server/answer.py);run (gateway/proxy/exchange.py);parse (gateway/proxy/chat.py);check_price_known (gateway/proxy/chat.py) 30
thread (0x7F): "MainThread";run (uvicorn/server.py);Exchange.run (gateway/proxy/exchange.py);settle (gateway/balance/redis_balance.py);send (gateway/balance/redis_link.py) 20
thread (0x7F): "MainThread";run (uvicorn/server.py);_flush (gateway/balance/redis_link.py) 10
thread (0x7F): "MainThread";run (uvicorn/server.py) 40
thread (0x8F): "worker";wait (threading.py) 900
"""  # noqa: E501


def test_a_sample_is_of_the_innermost_function_that_has_a_step() -> None:
    told = _from_stacks(STACKS, Work("request", 1000, 200.0))
    by_step = told.split("\n\n")[1].splitlines()
    assert by_step[0].startswith("By step of the exchange")
    assert [line.split(maxsplit=2) for line in by_step[1:]] == [
        ["80.0", "40.0%", "the event loop and the kernel's network"],
        ["60.0", "30.0%", "parse"],
        ["40.0", "20.0%", "settle"],
        ["20.0", "10.0%", "reserve or settle: writing to Redis, reading replies"],
    ]
