"""A real HTTP server that speaks Anthropic's Messages, Gemini's generateContent, Ollama's chat and Bedrock's Converse.

    python -m tests.scripted_dialects --port 0        prints "port N" and serves until it is stopped

It does what the last user message says after "do:", in a word, or answers "Hello from afar." in two pieces:

    tools      calls the first tool with {"city": "Paris"}     json      answers {"city": "Paris"}, as a schema asks for
    thinking   thinks first                                    status:N  refuses, in the dialect's own shape
    hang       never answers                                   hang-midstream  falls silent after the first piece
    half       ends a stream without saying why                error-midstream  an error where the second piece would be
    no-usage   counts nothing                                  forever   goes on until it is left
    search     searches the web three times, or as often as `max_uses` says; one search more fails, without a fee
    die-searching  the same as a stream, which ends before it says how often

Counts are constants, in each dialect's own terms:

    Anthropic  100 input, 40 read from a cache, 50 written to it (30 for 5 minutes, 20 for an hour), 20 output
    Gemini     120 prompt, of which 40 cached and 20 of an image; 30 candidates, 12 thoughts
    Bedrock    100 input, 40 read, 50 written, 20 output
    Ollama     100 evaluated, 20 made

GET /journal -> {"requests": [{path, query, body, headers}], "left": N}; DELETE /journal empties it.
`left` counts the streams that the client ended.
"""

import argparse
import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

PIECES = ("Hello", " from afar.")
ARGUMENTS = '{"city": "Paris"}'
ANTHROPIC_USAGE = {
    "input_tokens": 100,
    "cache_read_input_tokens": 40,
    "cache_creation_input_tokens": 50,
    "cache_creation": {"ephemeral_5m_input_tokens": 30, "ephemeral_1h_input_tokens": 20},
    "output_tokens": 20,
    "inference_geo": None,
    "service_tier": "standard",
    "output_tokens_details": None,
    "server_tool_use": None,
}
# Null is what there is nothing to tell of; every answer has them.
NOTHING_OF: dict[str, Any] = {"container": None, "stop_details": None, "stop_sequence": None}
NO_USAGE_OF: dict[str, Any] = {"output_tokens_details": None, "server_tool_use": None}
DIRECT = {"type": "direct"}
GEMINI_USAGE = {
    "promptTokenCount": 120,
    "cachedContentTokenCount": 40,
    "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 100}, {"modality": "IMAGE", "tokenCount": 20}],
    "candidatesTokenCount": 30,
    "thoughtsTokenCount": 12,
    "totalTokenCount": 162,
}
BEDROCK_USAGE = {
    "inputTokens": 100, "outputTokens": 20, "totalTokens": 210, "cacheReadInputTokens": 40, "cacheWriteInputTokens": 50,
}  # fmt: skip


def said(value: Any) -> str:
    """Every text in a body, the last one last."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return " ".join(said(each) for each in value.values())
    return " ".join(said(each) for each in value) if isinstance(value, list) else ""


def script_of(messages: list[Any]) -> str:
    words = [word for word in said(messages[-1:]).split() if word.startswith("do:")]
    return words[-1].removeprefix("do:") if words else "ok"


class Server:
    """The handlers and the journal."""

    def __init__(self) -> None:
        self.journal: list[dict[str, Any]] = []
        self.left = 0

    def app(self) -> web.Application:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_post("/v1/messages", self.anthropic)
        app.router.add_post("/v1/messages/count_tokens", self.anthropic_count)
        app.router.add_post("/models/{model}:generateContent", self.gemini)
        app.router.add_post("/models/{model}:streamGenerateContent", self.gemini_stream)
        app.router.add_post("/models/{model}:batchEmbedContents", self.gemini_embeddings)
        app.router.add_post("/api/chat", self.ollama)
        app.router.add_post("/model/{model}/converse", self.bedrock)
        app.router.add_get("/journal", self.read_journal)
        app.router.add_delete("/journal", self.clear_journal)
        return app

    async def read_journal(self, request: web.Request) -> web.Response:
        return web.json_response({"requests": self.journal, "left": self.left})

    async def clear_journal(self, request: web.Request) -> web.Response:
        self.journal, self.left = [], 0
        return web.json_response({})

    async def _read(self, request: web.Request) -> dict[str, Any]:
        body: dict[str, Any] = await request.json()
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.journal.append({"path": request.raw_path, "body": body, "headers": headers})
        return body

    async def _events(self, request: web.Request, frames: list[bytes], kind: str, script: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": kind})
        await response.prepare(request)
        try:
            for frame in frames:
                if frame == b"SILENT":
                    await asyncio.sleep(3600)
                await response.write(frame)
                while script == "forever" and frame is frames[-1]:
                    await asyncio.sleep(0.02)
                    await response.write(frame)
        except (ConnectionError, asyncio.CancelledError):
            self.left += 1
            raise
        await response.write_eof()
        return response

    # ---- Anthropic: https://docs.anthropic.com/en/api/messages ------------------------------------

    async def anthropic(self, request: web.Request) -> web.StreamResponse:
        body = await self._read(request)
        script = script_of(body["messages"])
        if script == "hang":
            await asyncio.sleep(3600)
        if script.startswith("status:"):
            status = int(script.removeprefix("status:"))
            words = {401: "invalid x-api-key", 429: "Too many for sk-ant-made-up-secret", 529: "Overloaded"}
            kind = "overloaded_error" if status == 529 else "some_error"
            error = {"type": kind, "message": words.get(status, "prompt is odd")}
            headers = {"retry-after": "7" if status == 429 else ""}
            return web.json_response({"type": "error", "error": error}, status=status, headers=headers)
        usage = {} if script == "no-usage" else ANTHROPIC_USAGE
        if body.get("stream"):
            return await self._events(request, self._anthropic_events(body, script, usage), "text/event-stream", script)
        content: list[dict[str, Any]] = [{"type": "text", "text": "".join(PIECES), "citations": None}]
        stop = "end_turn"
        if script == "tools":
            call = {"type": "tool_use", "id": "toolu_1", "name": body["tools"][0]["name"], "input": json.loads(ARGUMENTS)}
            call |= {"caller": DIRECT}
            content, stop = [*content, call], "tool_use"
        elif script == "thinking":
            content.insert(0, {"type": "thinking", "thinking": "Hm, well.", "signature": "c2lnbmVk"})
        elif script == "json":
            content, stop = self._anthropic_json(body)
        elif script == "search":
            content = [*[block for _, block in self._searches(body)], *content]
            usage = {**usage, "server_tool_use": {"web_search_requests": self._searched(body), "web_fetch_requests": 0}}
        answer = {"id": "msg_1", "type": "message", "role": "assistant", "model": body["model"], "content": content}
        return web.json_response({**answer, **NOTHING_OF, "stop_reason": stop, "usage": usage})

    async def anthropic_count(self, request: web.Request) -> web.Response:
        body = await self._read(request)
        if script_of(body["messages"]) == "status:400":
            return web.json_response({"type": "error", "error": {"type": "invalid_request_error", "message": "no"}}, status=400)
        return web.json_response({"input_tokens": 123})

    def _searched(self, body: dict[str, Any]) -> int:
        return min(3, int(body["tools"][0].get("max_uses", 3)))

    def _searches(self, body: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
        """(what the model writes, a block): searches with their results, and one that fails."""
        found: list[tuple[str, dict[str, Any]]] = []
        for number in range(self._searched(body) + 1):
            call = {"type": "server_tool_use", "id": f"srvtoolu_{number}", "name": "web_search", "input": {}, "caller": DIRECT}
            page = {"type": "web_search_result", "title": "x", "url": "https://example.com/", "page_age": None}
            results: Any = [{**page, "encrypted_content": "EqgfCioIARgB"}]
            if number == self._searched(body):
                results = {"type": "web_search_tool_result_error", "error_code": "max_uses_exceeded"}
            found.append((ARGUMENTS, call))
            answered = {"type": "web_search_tool_result", "tool_use_id": call["id"], "content": results, "caller": DIRECT}
            found.append(("", answered))
        return found

    def _anthropic_json(self, body: dict[str, Any]) -> tuple[list[dict[str, Any]], str]:
        if body.get("tools"):  # a model that cannot be told a schema is made to call a tool of that shape
            name = body["tools"][0]["name"]
            call = {"type": "tool_use", "id": "toolu_1", "name": name, "input": json.loads(ARGUMENTS), "caller": DIRECT}
            return [call], "tool_use"
        return [{"type": "text", "text": ARGUMENTS, "citations": None}], "end_turn"

    def _anthropic_events(self, body: dict[str, Any], script: str, usage: dict[str, Any]) -> list[bytes]:
        frames: list[bytes] = []

        def add(kind: str, **fields: Any) -> None:
            frames.append(f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode())

        blocks = 0

        def block(start: dict[str, Any], *deltas: dict[str, Any]) -> None:
            nonlocal blocks
            index, blocks = blocks, blocks + 1
            add("content_block_start", index=index, content_block=start)
            for delta in deltas:
                add("content_block_delta", index=index, delta=delta)
            add("content_block_stop", index=index)

        started = {**usage, "output_tokens": 1} if usage else {}
        message = {"id": "msg_1", "type": "message", "role": "assistant", "model": body["model"], "content": []}
        add("message_start", message={**message, **NOTHING_OF, "stop_reason": None, "usage": started})
        add("ping")
        if script == "thinking":
            start = {"type": "thinking", "thinking": "", "signature": ""}
            deltas = [{"type": "thinking_delta", "thinking": text} for text in ("Hm,", " well.")]
            block(start, *deltas, {"type": "signature_delta", "signature": "c2lnbmVk"})
        texts = [{"type": "text_delta", "text": text} for text in PIECES]
        if script == "json" and not body.get("tools"):
            texts = [{"type": "text_delta", "text": ARGUMENTS}]
        if script in ("hang-midstream", "error-midstream", "half", "forever"):
            add("content_block_start", index=0, content_block={"type": "text", "text": "", "citations": None})
            add("content_block_delta", index=0, delta=texts[0])
            if script == "hang-midstream":
                frames.append(b"SILENT")
            elif script == "error-midstream":
                add("error", error={"type": "overloaded_error", "message": "Overloaded, dear sk-ant-made-up-secret"})
            return frames
        searches = self._searches(body) if script in ("search", "die-searching") else []
        for written, start in searches:
            block(start, *([{"type": "input_json_delta", "partial_json": written}] if written else []))
        if script == "die-searching":
            return frames
        if not (script == "json" and body.get("tools")):
            block({"type": "text", "text": "", "citations": None}, *texts)
        if script in ("tools", "json") and body.get("tools"):
            name = body["tools"][0]["name"]
            call: dict[str, Any] = {"type": "tool_use", "id": "toolu_1", "name": name, "input": {}, "caller": DIRECT}
            parts = [{"type": "input_json_delta", "partial_json": part} for part in (ARGUMENTS[:6], ARGUMENTS[6:])]
            block(call, *parts)
        stop = "tool_use" if script in ("tools", "json") and body.get("tools") else "end_turn"
        nulls = dict.fromkeys(("cache_creation_input_tokens", "cache_read_input_tokens", "input_tokens"))
        told = {**nulls, **NO_USAGE_OF, "output_tokens": 20} if usage else {}
        if searches:
            told["server_tool_use"] = {"web_search_requests": self._searched(body), "web_fetch_requests": 0}
        add("message_delta", delta={**NOTHING_OF, "stop_reason": stop}, usage=told)
        add("message_stop")
        return frames

    # ---- Gemini: https://ai.google.dev/api/generate-content ---------------------------------------

    async def gemini(self, request: web.Request) -> web.StreamResponse:
        body = await self._read(request)
        script = script_of(body["contents"])
        if script.startswith("status:"):
            return self._gemini_refusal(int(script.removeprefix("status:")))
        return web.json_response(self._gemini_answer(body, script, "".join(PIECES), "STOP"))

    async def gemini_stream(self, request: web.Request) -> web.StreamResponse:
        body = await self._read(request)
        script = script_of(body["contents"])
        if script.startswith("status:"):
            return self._gemini_refusal(int(script.removeprefix("status:")))
        first = self._gemini_answer(body, "ok", PIECES[0], None)
        del first["usageMetadata"]
        second = self._gemini_answer(body, script, PIECES[1], "STOP")
        answers = [first] if script == "half" else [first, second]
        frames = [b"data: " + json.dumps(answer).encode() + b"\r\n\r\n" for answer in answers]
        return await self._events(request, frames, "text/event-stream", script)

    def _gemini_refusal(self, status: int) -> web.Response:
        words = "API key not valid. Please pass a valid API key." if status == 400 else "Resource has been exhausted."
        error = {"code": status, "message": words, "status": "INVALID_ARGUMENT" if status == 400 else "RESOURCE_EXHAUSTED"}
        return web.json_response({"error": error}, status=status)

    def _gemini_answer(self, body: dict[str, Any], script: str, text: str, finish: str | None) -> dict[str, Any]:
        parts: list[dict[str, Any]] = [{"text": ARGUMENTS if script == "json" else text}]
        if script == "tools":
            name = body["tools"][0]["function_declarations"][0]["name"]
            parts = [{"functionCall": {"name": name, "args": json.loads(ARGUMENTS)}}]
        elif script == "thinking":
            parts.insert(0, {"text": "Hm, well.", "thought": True})
        candidate: dict[str, Any] = {"content": {"role": "model", "parts": parts}, "index": 0}
        if finish:
            candidate["finishReason"] = finish
        return {"candidates": [candidate], "usageMetadata": GEMINI_USAGE, "modelVersion": "gemini", "responseId": "r1"}

    async def gemini_embeddings(self, request: web.Request) -> web.Response:
        body = await self._read(request)
        return web.json_response({"embeddings": [{"values": [0.6, 0.8]} for _ in body["requests"]]})

    # ---- Ollama: its docs/api.md; Bedrock: the Converse API's reference ---------------------------

    async def ollama(self, request: web.Request) -> web.StreamResponse:
        body = await self._read(request)
        counts = {"prompt_eval_count": 100, "eval_count": 20, "done": True, "done_reason": "stop"}
        shared = {"model": body["model"], "created_at": "2025-01-01T00:00:00Z"}
        if not body.get("stream"):
            return web.json_response({**shared, **counts, "message": {"role": "assistant", "content": "".join(PIECES)}})
        lines = [{**shared, "message": {"role": "assistant", "content": text}, "done": False} for text in PIECES]
        lines.append({**shared, **counts, "message": {"role": "assistant", "content": ""}})
        frames = [json.dumps(line).encode() + b"\n" for line in lines]
        return await self._events(request, frames, "application/x-ndjson", "")

    async def bedrock(self, request: web.Request) -> web.Response:
        await self._read(request)
        message = {"role": "assistant", "content": [{"text": "".join(PIECES)}]}
        return web.json_response({"output": {"message": message}, "stopReason": "end_turn", "usage": BEDROCK_USAGE})


async def start(port: int = 0) -> tuple[web.AppRunner, int]:
    """Serve in the running loop; returns the runner (call `cleanup`) and the port."""
    runner = web.AppRunner(Server().app(), access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    return runner, int(runner.addresses[0][1])


@asynccontextmanager
async def serving(port: int = 0) -> AsyncIterator[str]:
    """Serve in the running loop for a `with` block; gives the base, such as "http://127.0.0.1:4711"."""
    runner, bound = await start(port)
    try:
        yield f"http://127.0.0.1:{bound}"
    finally:
        await runner.cleanup()


async def _serve_for_ever(port: int) -> None:
    _, bound = await start(port)
    print(f"port {bound}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    asyncio.run(_serve_for_ever(parser.parse_args().port))
