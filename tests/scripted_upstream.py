"""A real HTTP server that speaks OpenAI's chat, completions and embeddings, and misbehaves as the model's name says.

    python -m tests.scripted_upstream --port 0        prints "port N" and serves until it is stopped

The script is the request's `model` (or the body field `script`, which wins): a word, then options:
"ok", "ok:tokens=50,ms=5", "status:429". It may follow a prefix that ends in "/": "openai/ok".

    ok              a plain answer                       echo            the answer's text is the request body it got
    no-usage        an answer without usage              garbage         not JSON (or not SSE)
    half-stream     closes cleanly, no finish, no DONE   status:N        that status with an OpenAI error body
    hang            never answers                        hang-midstream  two chunks, then silence
    die-before-byte drops the connection, no byte        die-midhead     drops it after half a status line
    die-midstream   drops it after two chunks / half the body
    die-if-reused   serves the first request on a connection, drops every later one before any byte
    hang-if-reused  the same, silent
    slow:MS         waits before answering               ms=N            waits between chunks (any script)
    absurd-usage    negative and impossible counts       cached          cached_tokens = prompt // 2
    reasoning       reasoning_tokens = completion // 2   audio           audio tokens both ways
    tools           answers with a tool call             usage-in-every-chunk  counts grow from chunk to chunk
    error-event-midstream  an `error` event after two chunks
    close-after:MS  answers, then closes the idle connection MS later (0: at once), without announcing it
    redirect        307 to /journal                      gzip            the body compressed
    cookie          sets a cookie                        no-length       no content-length, body ends with the connection
    continue        the journal tells `expect`           huge:BYTES      a body of that many bytes
    json            the text is {"query": "x"}
    filtered        400 as Azure's filter of prompts has it
    mood:NAME       as PUT /mood {"NAME": "<a script>"} said last; "ok" before

Options: tokens=N completion tokens (20), prompt=N prompt tokens, ms=N, after=SECONDS that a 429 asks to wait (1).

Token counts are a rule, not a tokenizer: prompt = 3 + for each message 3 + the words of its text (for
`prompt`/`input` strings: their words; for arrays of numbers: their length); completion = `tokens`, less when
`max_tokens`/`max_completion_tokens` is lower (then finish_reason is "length"), times `n`.
Each completion token is the text " tokI".

GET /journal -> {"requests": [{path, model, body, headers, connection}], "count": N}; DELETE /journal empties it.
"""

import argparse
import asyncio
import base64
import gzip
import json
import multiprocessing
import struct
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

ID = "chatcmpl-scripted"
CREATED = 1_700_000_000
JOURNAL_MAX = 100_000


class Script:
    """What one request asked for."""

    def __init__(self, text: str) -> None:
        head, _, rest = text.rpartition("/")[2].partition(":")
        self.name = head
        self.value = ""
        self.options: dict[str, str] = {}
        for part in filter(None, rest.split(",")):
            key, equals, value = part.partition("=")
            if equals:
                self.options[key] = value
            else:
                self.value = key

    def number(self, key: str, default: int) -> int:
        return int(self.options.get(key, default))


def words_of(content: Any) -> int:
    """Words of a message's content: a string, or a list of parts with `text`."""
    if isinstance(content, str):
        return len(content.split())
    if isinstance(content, list):
        if content and isinstance(content[0], int):
            return len(content)
        return sum(words_of(part.get("text", "") if isinstance(part, dict) else part) for part in content)
    return 0


def prompt_tokens(body: dict[str, Any]) -> int:
    if "messages" in body:
        return 3 + sum(3 + words_of(message.get("content")) for message in body["messages"])
    return words_of(body.get("prompt", body.get("input", "")))


def completion_tokens(body: dict[str, Any], script: Script) -> tuple[int, str]:
    wanted = script.number("tokens", 20)
    cap = body.get("max_completion_tokens") or body.get("max_tokens")
    if cap is not None and cap < wanted:
        return int(cap), "length"
    return wanted, "stop"


def usage_of(body: dict[str, Any], script: Script, produced: int) -> dict[str, Any] | None:
    prompt = script.number("prompt", prompt_tokens(body))
    if script.name == "no-usage":
        return None
    if script.name == "absurd-usage":
        return {
            "prompt_tokens": -5,
            "completion_tokens": 10**15,
            "total_tokens": 1,
            "prompt_tokens_details": {"cached_tokens": 999},
        }
    audio = 4 if script.name == "audio" else 0
    return {
        "prompt_tokens": prompt,
        "completion_tokens": produced,
        "total_tokens": prompt + produced,
        "prompt_tokens_details": {"cached_tokens": prompt // 2 if script.name == "cached" else 0, "audio_tokens": audio},
        "completion_tokens_details": {
            "reasoning_tokens": produced // 2 if script.name == "reasoning" else 0,
            "audio_tokens": audio,
        },
    }


def text_of(script: Script, produced: int, raw: bytes) -> list[str]:
    if script.name == "echo":
        return [raw.decode()]
    if script.name == "json":
        return ['{"query": ', '"x"}']
    return [f" tok{number}" for number in range(produced)]


def tool_call(body: dict[str, Any]) -> dict[str, Any]:
    tools = body.get("tools") or [{"function": {"name": "lookup"}}]
    return {
        "id": "call_scripted",
        "type": "function",
        "function": {"name": tools[0]["function"]["name"], "arguments": '{"query": "x"}'},
    }


def sse(value: Any) -> bytes:
    return b"data: " + (value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n\n"


class Server:
    """The handlers and the journal."""

    def __init__(self) -> None:
        self.journal: list[dict[str, Any]] = []
        self.count = 0
        self.moods: dict[str, str] = {}
        self._connections: weakref.WeakKeyDictionary[Any, list[int]] = weakref.WeakKeyDictionary()
        self._connection_count = 0

    def app(self) -> web.Application:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        for prefix in ("", "/v1", "/openai/v1", "/openai/deployments/{name}"):
            app.router.add_post(prefix + "/chat/completions", self.serve)
            app.router.add_post(prefix + "/completions", self.serve)
            app.router.add_post(prefix + "/embeddings", self.serve)
        app.router.add_get("/journal", self.read_journal)
        app.router.add_delete("/journal", self.clear_journal)
        app.router.add_put("/mood", self.set_mood)
        return app

    async def read_journal(self, request: web.Request) -> web.Response:
        return web.json_response({"requests": self.journal, "count": self.count})

    async def clear_journal(self, request: web.Request) -> web.Response:
        self.journal, self.count = [], 0
        return web.json_response({})

    async def set_mood(self, request: web.Request) -> web.Response:
        self.moods |= await request.json()
        return web.json_response({})

    def _on_connection(self, request: web.Request) -> tuple[int, int]:
        """The connection's number, and how many requests it has carried, this one included."""
        key = request.transport
        if key not in self._connections:
            self._connection_count += 1
            self._connections[key] = [self._connection_count, 0]
        self._connections[key][1] += 1
        number, carried = self._connections[key]
        return number, carried

    async def serve(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        connection, carried = self._on_connection(request)
        try:
            body = json.loads(raw)
        except ValueError:
            body = {}
        model = str(body.get("model", ""))
        script = Script(str(body.get("script") or model))
        if script.name == "mood":
            script = Script(self.moods.get(script.value, "ok"))
        self.count += 1
        if len(self.journal) < JOURNAL_MAX:
            headers = {name.lower(): value for name, value in request.headers.items()}
            entry = {"path": request.path, "model": model, "body": body, "headers": headers, "connection": connection}
            entry["query"] = request.query_string
            self.journal.append(entry)
        early = await self._before_answer(request, script, carried)
        if early is not None:
            return early
        kind = request.path.rpartition("/")[2]
        if request.path.endswith("/chat/completions"):
            kind = "chat"
        if kind != "embeddings" and body.get("stream"):
            return await self._stream(request, script, body, raw, kind)
        answer = self._answer(script, body, raw, kind)
        return await self._send_whole(request, script, answer)

    async def _before_answer(self, request: web.Request, script: Script, carried: int) -> web.StreamResponse | None:
        name = script.name
        transport = request.transport
        assert transport is not None
        if name == "hang" or (name == "hang-if-reused" and carried > 1):
            await asyncio.sleep(3600)
        if name == "slow":
            await asyncio.sleep(int(script.value or 100) / 1000)
        if name == "die-before-byte" or (name == "die-if-reused" and carried > 1):
            transport.close()
            await asyncio.sleep(0.01)
        if name == "die-midhead" and (carried > 1 or script.value != "reused"):
            transport.write(b"HTTP/1.1 200 OK\r\nconte")
            await asyncio.sleep(0.02)
            transport.close()
            await asyncio.sleep(0.01)
        if name == "close-after":
            asyncio.get_running_loop().call_later(int(script.value or 0) / 1000 + 0.005, transport.close)
        if name == "status":
            status = int(script.value or 500)
            error = {"message": f"scripted {status}", "type": "scripted_error", "param": None, "code": f"scripted_{status}"}
            headers = {"Retry-After": script.options.get("after", "1")} if status == 429 else {}
            return web.json_response({"error": error}, status=status, headers=headers)
        if name == "filtered":
            why = {"code": "ResponsibleAIPolicyViolation", "content_filter_result": {"hate": {"filtered": True}}}
            told = {"message": "The response was filtered", "type": None, "param": "prompt", "code": "content_filter"}
            return web.json_response({"error": {**told, "status": 400, "innererror": why}}, status=400)
        if name == "redirect":
            return web.Response(status=307, headers={"Location": "/journal"})
        if name == "huge":
            return web.Response(body=b"x" * int(script.value or 0), content_type="application/json")
        return None

    def _answer(self, script: Script, body: dict[str, Any], raw: bytes, kind: str) -> bytes:
        if script.name == "garbage":
            return b"<html>not json"
        if kind == "embeddings":
            return json.dumps(self._embeddings(script, body)).encode()
        produced, finish = completion_tokens(body, script)
        text = "".join(text_of(script, produced, raw))
        choices: list[dict[str, Any]] = []
        count = int(body.get("n") or 1)
        for index in range(count):
            if kind == "completions":
                choices.append({"index": index, "text": text, "finish_reason": finish, "logprobs": None})
            elif script.name == "tools":
                message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None, "tool_calls": [tool_call(body)]}
                choices.append({"index": index, "message": message, "finish_reason": "tool_calls", "logprobs": None})
            else:
                message = {"role": "assistant", "content": text, "refusal": None}
                choices.append({"index": index, "message": message, "finish_reason": finish, "logprobs": None})
        shape = "text_completion" if kind == "completions" else "chat.completion"
        answer: dict[str, Any] = {
            "id": ID,
            "object": shape,
            "created": CREATED,
            "model": body.get("model"),
            "choices": choices,
            "system_fingerprint": "fp_scripted",
        }
        usage = usage_of(body, script, produced * count)
        if usage is not None:
            answer["usage"] = usage
        return json.dumps(answer).encode()

    def _embeddings(self, script: Script, body: dict[str, Any]) -> dict[str, Any]:
        given = body.get("input", "")
        items = [given] if isinstance(given, str) or (given and isinstance(given[0], int)) else given
        vector = [0.5, 0.5, 0.5, 0.5]
        encoded: Any = vector
        if body.get("encoding_format") == "base64":
            encoded = base64.b64encode(struct.pack("<4f", *vector)).decode()
        data = [{"object": "embedding", "index": index, "embedding": encoded} for index in range(len(items))]
        prompt = script.number("prompt", sum(words_of(item) for item in items))
        answer: dict[str, Any] = {"object": "list", "data": data, "model": body.get("model")}
        if script.name != "no-usage":
            answer["usage"] = {"prompt_tokens": prompt, "total_tokens": prompt}
        return answer

    async def _send_whole(self, request: web.Request, script: Script, answer: bytes) -> web.StreamResponse:
        transport = request.transport
        assert transport is not None
        if script.name == "die-midstream":
            head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(answer)}\r\n\r\n"
            transport.write(head.encode() + answer[: len(answer) // 2])
            await asyncio.sleep(0.02)
            transport.close()
        if script.name == "hang-midstream":
            head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(answer)}\r\n\r\n"
            transport.write(head.encode() + answer[: len(answer) // 2])
            await asyncio.sleep(3600)
        if script.name == "no-length":
            transport.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n" + answer)
            await asyncio.sleep(0.02)
            transport.close()
        headers = {"Content-Type": "application/json", "x-request-id": "req_scripted", "openai-processing-ms": "7"}
        if script.name == "cookie":
            headers["Set-Cookie"] = "tracker=1; Path=/"
        if script.name == "gzip":
            headers["Content-Encoding"] = "gzip"
            answer = gzip.compress(answer)
        return web.Response(body=answer, headers=headers)

    async def _stream(
        self, request: web.Request, script: Script, body: dict[str, Any], raw: bytes, kind: str
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        await response.prepare(request)
        pause_s = script.number("ms", 0) / 1000
        if script.name == "garbage":
            await response.write(b"<html>not an event\n\n<b>really")
            await response.write_eof()
            return response
        for sent, frame in enumerate(self._frames(script, body, raw, kind), 1):
            await response.write(frame)
            if sent == 3 and not await self._midstream(request, response, script):
                return response
            if pause_s:
                await asyncio.sleep(pause_s)
        await response.write_eof()
        return response

    async def _midstream(self, request: web.Request, response: web.StreamResponse, script: Script) -> bool:
        """What happens after the role and two chunks; False ends the stream there."""
        if script.name == "hang-midstream":
            await asyncio.sleep(3600)
        if script.name == "die-midstream":
            await asyncio.sleep(0.02)
            assert request.transport is not None
            request.transport.close()
            return False
        if script.name == "half-stream":
            await response.write_eof()
            return False
        if script.name == "error-event-midstream":
            error = {"message": "scripted overload", "type": "server_error", "param": None, "code": "overloaded"}
            await response.write(sse({"error": error}))
            await response.write_eof()
            return False
        return True

    def _frames(self, script: Script, body: dict[str, Any], raw: bytes, kind: str) -> list[bytes]:
        produced, finish = completion_tokens(body, script)
        asked = bool((body.get("stream_options") or {}).get("include_usage"))
        count = int(body.get("n") or 1)
        usage = usage_of(body, script, produced * count)
        shape = "text_completion" if kind == "completions" else "chat.completion.chunk"

        def chunk(choices: list[Any], **extra: Any) -> dict[str, Any]:
            made: dict[str, Any] = {"id": ID, "object": shape, "created": CREATED, "model": body.get("model")}
            made["choices"] = choices
            if asked and script.name != "no-usage":
                made["usage"] = None
            made.update(extra)
            return made

        def choice(index: int, delta: dict[str, Any], end: str | None = None) -> dict[str, Any]:
            if kind == "completions":
                return {"index": index, "text": delta.get("content", ""), "finish_reason": end, "logprobs": None}
            return {"index": index, "delta": delta, "finish_reason": end, "logprobs": None}

        frames: list[bytes] = []
        for index in range(count):
            frames.append(sse(chunk([choice(index, {"role": "assistant", "content": ""})])))
            if script.name == "tools" and kind == "chat":
                call = tool_call(body)
                arguments = call["function"].pop("arguments")
                opening = {"index": 0, **call, "function": {**call["function"], "arguments": ""}}
                frames.append(sse(chunk([choice(index, {"tool_calls": [opening]})])))
                for piece in (arguments[:6], arguments[6:]):
                    part = {"index": 0, "function": {"arguments": piece}}
                    frames.append(sse(chunk([choice(index, {"tool_calls": [part]})])))
                frames.append(sse(chunk([choice(index, {}, "tool_calls")])))
                continue
            for number, text in enumerate(text_of(script, produced, raw), 1):
                extra = {"usage": usage_of(body, script, number)} if script.name == "usage-in-every-chunk" else {}
                frames.append(sse(chunk([choice(index, {"content": text})], **extra)))
            frames.append(sse(chunk([choice(index, {}, finish)])))
        if asked and usage is not None:
            frames.append(sse(chunk([], usage=usage)))
        frames.append(sse(b"[DONE]"))
        return frames


async def start(port: int = 0, host: str = "127.0.0.1") -> tuple[web.AppRunner, int]:
    """Serve in the running loop; returns the runner (call `cleanup`) and the port."""
    runner = web.AppRunner(Server().app(), access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, host, port, backlog=4096)
    await site.start()
    assert runner.addresses
    return runner, int(runner.addresses[0][1])


@asynccontextmanager
async def serving(port: int = 0) -> AsyncIterator[str]:
    """Serve in the running loop for a `with` block; gives the API base, such as "http://127.0.0.1:4711/v1"."""
    runner, bound = await start(port)
    try:
        yield f"http://127.0.0.1:{bound}/v1"
    finally:
        await runner.cleanup()


async def _serve_for_ever(port: int, told: Callable[[int], None]) -> None:
    _, bound = await start(port)
    told(bound)
    await asyncio.Event().wait()


def _process(pipe: Any) -> None:
    asyncio.run(_serve_for_ever(0, pipe.send))


def start_process() -> tuple[multiprocessing.process.BaseProcess, str]:
    """Serve in a process of its own (stop it with `terminate` and `join`); returns it and the API base."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_process, args=(there,), daemon=True)
    process.start()
    assert here.poll(20), "the scripted upstream did not start"
    return process, f"http://127.0.0.1:{here.recv()}/v1"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    asked_port = parser.parse_args().port
    asyncio.run(_serve_for_ever(asked_port, lambda bound: print(f"port {bound}", flush=True)))
