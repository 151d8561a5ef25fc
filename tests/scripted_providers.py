"""A real HTTP server that holds one and the same conversation in the dialects of many providers, by the path it is asked at.

    python -m tests.scripted_providers --port 0        prints "port N" and serves until it is stopped

Without tools it says "Hello from afar.", in two pieces where it streams. With tools it calls the first of them with
{"city": "Paris"}; once it has the tool's result it answers {"city": "Paris"}, as a schema asks for. Every answer in JSON has
the field `x_own`, which no translation knows. The counts are the same everywhere, in each dialect's own terms: a prompt of
130 tokens, of which 40 were cached and (Gemini tells) 20 are an image's, and 30 made, of which 12 were thought (Bedrock, Cohere
and Ollama tell less).

GET /journal -> {"requests": [{path, body, text}]}: `body` null for what is no JSON.
"""

import argparse
import asyncio
import binascii
import json
import struct
from typing import Any

from aiohttp import web

PIECES = ("Hello", " from afar.")
ARGUMENTS = '{"city": "Paris"}'
COUNTED = 123
OPENAI_USAGE = {
    "prompt_tokens": 130, "completion_tokens": 30, "total_tokens": 160,
    "prompt_tokens_details": {"cached_tokens": 40}, "completion_tokens_details": {"reasoning_tokens": 12},
}  # fmt: skip
RESPONSES_USAGE = {
    "input_tokens": 130, "output_tokens": 30, "total_tokens": 160,
    "input_tokens_details": {"cached_tokens": 40}, "output_tokens_details": {"reasoning_tokens": 12},
}  # fmt: skip
ANTHROPIC_USAGE = {
    "input_tokens": 90, "cache_read_input_tokens": 40, "cache_creation_input_tokens": 0, "output_tokens": 30,
    "output_tokens_details": {"thinking_tokens": 12},
}  # fmt: skip
GEMINI_USAGE = {
    "promptTokenCount": 130, "cachedContentTokenCount": 40, "candidatesTokenCount": 18, "thoughtsTokenCount": 12,
    "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 110}, {"modality": "IMAGE", "tokenCount": 20}],
    "totalTokenCount": 160,
}  # fmt: skip
BEDROCK_USAGE = {"inputTokens": 90, "outputTokens": 30, "totalTokens": 160, "cacheReadInputTokens": 40}
OWN = {"x_own": True}


def sse(events: list[tuple[str, dict[str, Any]]], done: bytes = b"") -> bytes:
    lines = [f"event: {name}\n" * bool(name) + f"data: {json.dumps(data)}\n\n" for name, data in events]
    return "".join(lines).encode() + done


def turn_of(text: str, body: dict[str, Any]) -> str:
    """What to say: `call` a tool, `answer` with what it told, or `plain`."""
    if not (body.get("tools") or body.get("toolConfig")):
        return "plain"
    return "answer" if "18 degrees" in text else "call"


def words(turn: str) -> tuple[str, ...]:
    return (ARGUMENTS[:6], ARGUMENTS[6:]) if turn == "answer" else PIECES


class Server:
    def __init__(self) -> None:
        self.journal: list[dict[str, Any]] = []

    def app(self) -> web.Application:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_get("/journal", self.read_journal)
        app.router.add_post("/{path:.*}", self.any)
        return app

    async def read_journal(self, request: web.Request) -> web.Response:
        return web.json_response({"requests": self.journal})

    async def any(self, request: web.Request) -> web.Response:
        text = (await request.read()).decode("utf-8", "replace")
        body = json.loads(text) if request.content_type == "application/json" else None
        self.journal.append({"path": request.path, "body": body, "text": text})
        for end, answer in _BY_END.items():
            if request.path.endswith(end):
                return answer(body or {}, turn_of(text, body or {}))
        return web.json_response({"error": {"message": f"nothing is served at {request.path}"}}, status=404)


def told(answer: dict[str, Any]) -> web.Response:
    return web.json_response({**answer, **OWN})


def streamed(events: list[tuple[str, dict[str, Any]]], done: bytes = b"", kind: str = "text/event-stream") -> web.Response:
    return web.Response(body=sse([(name, {**data, **OWN}) for name, data in events], done), content_type=kind)


# ---- OpenAI ------------------------------------------------------------------------------------------------------------------


def chat(body: dict[str, Any], turn: str) -> web.Response:
    shared = {"id": "chatcmpl-1", "created": 1_700_000_000, "model": body.get("model", "m"), "service_tier": "default"}
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ARGUMENTS}}
    ended = "tool_calls" if turn == "call" else "stop"
    if not body.get("stream"):
        said: dict[str, Any] = {"role": "assistant", "content": None if turn == "call" else "".join(words(turn))}
        if turn == "call":
            said["tool_calls"] = [call]
        choice = {"index": 0, "message": said, "finish_reason": ended, "logprobs": None}
        return told({**shared, "object": "chat.completion", "choices": [choice], "usage": OPENAI_USAGE})
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": None if turn == "call" else ""}]
    if turn == "call":
        first = {**call, "function": {"name": "weather", "arguments": ARGUMENTS[:6]}}
        deltas.append({"tool_calls": [{"index": 0, **first}]})
        deltas.append({"tool_calls": [{"index": 0, "function": {"arguments": ARGUMENTS[6:]}}]})
    else:
        deltas += [{"content": piece} for piece in words(turn)]
    chunks: list[dict[str, Any]] = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": ended}]})
    chunks.append({"choices": [], "usage": OPENAI_USAGE})
    named = [("", {**shared, "object": "chat.completion.chunk", **chunk}) for chunk in chunks]
    return streamed(named, b"data: [DONE]\n\n")


def completions(body: dict[str, Any], turn: str) -> web.Response:
    shared = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": body.get("model", "m")}
    if not body.get("stream"):
        choice = {"index": 0, "text": "".join(PIECES), "finish_reason": "stop", "logprobs": None}
        return told({**shared, "choices": [choice], "usage": OPENAI_USAGE})
    chunks: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "text": piece, "finish_reason": None, "logprobs": None}]} for piece in PIECES
    ]
    chunks.append({"choices": [{"index": 0, "text": "", "finish_reason": "stop", "logprobs": None}]})
    chunks.append({"choices": [], "usage": OPENAI_USAGE})
    return streamed([("", {**shared, **chunk}) for chunk in chunks], b"data: [DONE]\n\n")


def embeddings(body: dict[str, Any], turn: str) -> web.Response:
    data = [{"object": "embedding", "index": 0, "embedding": [0.6, 0.8]}]
    usage = {"prompt_tokens": 5, "total_tokens": 5}
    return told({"object": "list", "data": data, "model": body.get("model", "m"), "usage": usage})


def responses(body: dict[str, Any], turn: str) -> web.Response:
    item: dict[str, Any] = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed"}
    item["content"] = [{"type": "output_text", "text": "".join(words(turn)), "annotations": []}]
    if turn == "call":
        item = {"id": "fc_1", "type": "function_call", "call_id": "call_1", "name": "weather", "arguments": ARGUMENTS}
        item["status"] = "completed"
    whole = {
        "id": "resp_1", "object": "response", "created_at": 1, "status": "completed", "model": body.get("model", "m"),
        "output": [item], "usage": RESPONSES_USAGE, "error": None, "incomplete_details": None, "instructions": None,
        "metadata": {}, "parallel_tool_calls": True, "temperature": 1.0, "tool_choice": "auto", "tools": [], "top_p": 1.0,
    }  # fmt: skip
    if not body.get("stream"):
        return told(whole)
    begun = {**whole, "status": "in_progress", "output": [], "usage": None}
    place = {"output_index": 0, "item_id": item["id"]}
    kinds: list[tuple[str, dict[str, Any]]] = [("response.created", {"response": begun})]
    if turn == "call":
        kinds.append(("response.output_item.added", {"output_index": 0, "item": {**item, "arguments": ""}}))
        kinds.append(("response.function_call_arguments.delta", {**place, "delta": ARGUMENTS}))
        kinds.append(("response.function_call_arguments.done", {**place, "arguments": ARGUMENTS, "name": "weather"}))
    else:
        kinds.append(("response.output_item.added", {"output_index": 0, "item": {**item, "content": []}}))
        part = {**place, "content_index": 0}
        empty = {"type": "output_text", "text": "", "annotations": []}
        kinds.append(("response.content_part.added", {**part, "part": empty}))
        kinds += [("response.output_text.delta", {**part, "delta": piece, "logprobs": []}) for piece in words(turn)]
        kinds.append(("response.output_text.done", {**part, "text": "".join(words(turn)), "logprobs": []}))
        kinds.append(("response.content_part.done", {**part, "part": item["content"][0]}))
    kinds.append(("response.output_item.done", {"output_index": 0, "item": item}))
    kinds.append(("response.completed", {"response": whole}))
    return streamed([(kind, {"type": kind, "sequence_number": at, **data}) for at, (kind, data) in enumerate(kinds)])


# ---- Anthropic ---------------------------------------------------------------------------------------------------------------


def messages(body: dict[str, Any], turn: str) -> web.Response:
    block: dict[str, Any] = {"type": "text", "text": "".join(words(turn))}
    if turn == "call":
        block = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": json.loads(ARGUMENTS)}
    stop = "tool_use" if turn == "call" else "end_turn"
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": body["model"], "stop_sequence": None}
    if not body.get("stream"):
        return told({**message, "content": [block], "stop_reason": stop, "usage": ANTHROPIC_USAGE})
    begun = {**message, "content": [], "stop_reason": None, "usage": {**ANTHROPIC_USAGE, "output_tokens": 1}}
    if turn == "call":
        start: dict[str, Any] = {**block, "input": {}}
        deltas = [{"type": "input_json_delta", "partial_json": part} for part in (ARGUMENTS[:6], ARGUMENTS[6:])]
    else:
        start = {"type": "text", "text": ""}
        deltas = [{"type": "text_delta", "text": piece} for piece in words(turn)]
    kinds: list[tuple[str, dict[str, Any]]] = [("message_start", {"message": begun})]
    kinds.append(("content_block_start", {"index": 0, "content_block": start}))
    kinds += [("content_block_delta", {"index": 0, "delta": delta}) for delta in deltas]
    kinds.append(("content_block_stop", {"index": 0}))
    kinds.append(("message_delta", {"delta": {"stop_reason": stop, "stop_sequence": None}, "usage": ANTHROPIC_USAGE}))
    kinds.append(("message_stop", {}))
    return streamed([(kind, {"type": kind, **data}) for kind, data in kinds])


def count_tokens(body: dict[str, Any], turn: str) -> web.Response:
    return told({"input_tokens": COUNTED})


# ---- Gemini, Ollama, Cohere --------------------------------------------------------------------------------------------------


def gemini_parts(turn: str) -> list[dict[str, Any]]:
    if turn == "call":
        return [{"functionCall": {"name": "weather", "args": json.loads(ARGUMENTS)}}]
    return [{"text": piece} for piece in words(turn)]


def gemini_answer(parts: list[dict[str, Any]], finish: str | None) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": parts}, "index": 0}
    if finish:
        candidate["finishReason"] = finish
    return {"candidates": [candidate], "usageMetadata": GEMINI_USAGE, "modelVersion": "gemini", "responseId": "r1"}


def gemini(body: dict[str, Any], turn: str) -> web.Response:
    return told(gemini_answer(gemini_parts(turn), "STOP"))


def gemini_stream(body: dict[str, Any], turn: str) -> web.Response:
    parts = gemini_parts(turn)
    answers = [gemini_answer([part], "STOP" if part is parts[-1] else None) for part in parts]
    return streamed([("", answer) for answer in answers])


def gemini_embeddings(body: dict[str, Any], turn: str) -> web.Response:
    return told({"embeddings": [{"values": [0.6, 0.8]} for _ in body["requests"]]})


def ollama(body: dict[str, Any], turn: str) -> web.Response:
    counts = {"prompt_eval_count": 130, "eval_count": 30, "done": True, "done_reason": "stop"}
    shared = {"model": body["model"], "created_at": "2025-01-01T00:00:00Z"}
    if not body.get("stream"):
        return told({**shared, **counts, "message": {"role": "assistant", "content": "".join(PIECES)}})
    lines = [{**shared, "message": {"role": "assistant", "content": text}, "done": False} for text in PIECES]
    lines.append({**shared, **counts, "message": {"role": "assistant", "content": ""}})
    return web.Response(body=b"".join(json.dumps(line).encode() + b"\n" for line in lines), content_type="application/x-ndjson")


def ollama_embeddings(body: dict[str, Any], turn: str) -> web.Response:
    return told({"model": body["model"], "embeddings": [[0.6, 0.8]], "prompt_eval_count": 5})


def cohere(body: dict[str, Any], turn: str) -> web.Response:
    usage = {"tokens": {"input_tokens": 130, "output_tokens": 30}, "billed_units": {"input_tokens": 130, "output_tokens": 30}}
    if not body.get("stream"):
        message = {"role": "assistant", "content": [{"type": "text", "text": "".join(PIECES)}]}
        return told({"id": "c1", "finish_reason": "COMPLETE", "message": message, "usage": usage})
    kinds: list[tuple[str, dict[str, Any]]] = [
        ("message-start", {"id": "c1", "delta": {"message": {"role": "assistant"}}}),
        ("content-start", {"index": 0, "delta": {"message": {"content": {"type": "text", "text": ""}}}}),
        *(("content-delta", {"index": 0, "delta": {"message": {"content": {"text": piece}}}}) for piece in PIECES),
        ("content-end", {"index": 0}),
        ("message-end", {"delta": {"finish_reason": "COMPLETE", "usage": usage}}),
    ]
    return streamed([(kind, {"type": kind, **data}) for kind, data in kinds])


def cohere_embeddings(body: dict[str, Any], turn: str) -> web.Response:
    meta = {"billed_units": {"input_tokens": 5}}
    return told({"id": "e1", "texts": body["texts"], "embeddings": {"float": [[0.6, 0.8]]}, "meta": meta})


# ---- Bedrock: the Converse API, and its streams in Amazon's own frames ----------------------------------------


def bedrock(body: dict[str, Any], turn: str) -> web.Response:
    message = {"role": "assistant", "content": [{"text": "".join(PIECES)}]}
    return told({"output": {"message": message}, "stopReason": "end_turn", "usage": BEDROCK_USAGE})


def bedrock_stream(body: dict[str, Any], turn: str) -> web.Response:
    events: list[tuple[str, dict[str, Any]]] = [("messageStart", {"role": "assistant"})]
    events += [("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": piece}}) for piece in PIECES]
    events += [("contentBlockStop", {"contentBlockIndex": 0}), ("messageStop", {"stopReason": "end_turn"})]
    events.append(("metadata", {"usage": BEDROCK_USAGE, "metrics": {"latencyMs": 1}}))
    frames = b"".join(framed(kind, data) for kind, data in events)
    return web.Response(body=frames, content_type="application/vnd.amazon.eventstream")


def framed(kind: str, data: dict[str, Any]) -> bytes:
    """One event: lengths, their CRC, headers, JSON, and the CRC of all that."""
    told = {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}
    headers = b""
    for name, value in told.items():
        headers += struct.pack("!B", len(name)) + name.encode() + struct.pack("!BH", 7, len(value)) + value.encode()
    payload = json.dumps(data).encode()
    lengths = struct.pack("!II", 16 + len(headers) + len(payload), len(headers))
    head = lengths + struct.pack("!I", binascii.crc32(lengths)) + headers + payload
    return head + struct.pack("!I", binascii.crc32(head))


def titan_embeddings(body: dict[str, Any], turn: str) -> web.Response:
    return told({"embedding": [0.6, 0.8], "inputTextTokenCount": 5})


# ---- images, audio, moderations, rerank ------------------------------------------------------------


def images(body: dict[str, Any], turn: str) -> web.Response:
    usage = {"input_tokens": 50, "output_tokens": 272, "total_tokens": 322}
    usage_details = {"input_tokens_details": {"text_tokens": 10, "image_tokens": 40}}
    return told({"created": 1, "data": [{"b64_json": "aGk="}], "usage": {**usage, **usage_details}})


def speech(body: dict[str, Any], turn: str) -> web.Response:
    return web.Response(body=bytes(48_000), content_type="audio/pcm")


def transcript(body: dict[str, Any], turn: str) -> web.Response:
    return told({"text": "hello", "usage": {"type": "duration", "seconds": 1}})


def moderations(body: dict[str, Any], turn: str) -> web.Response:
    return told({"id": "modr-1", "model": body["model"], "results": [{"flagged": False, "categories": {}}]})


def rerank(body: dict[str, Any], turn: str) -> web.Response:
    results = [{"index": 0, "relevance_score": 0.9}]
    return told({"id": "r1", "results": results, "meta": {"billed_units": {"search_units": 1}}})


_BY_END = {
    "/v2/chat": cohere,
    "/chat/completions": chat,
    "/completions": completions,
    "/v2/embed": cohere_embeddings,
    "/api/embed": ollama_embeddings,
    "/embeddings": embeddings,
    "/responses": responses,
    "/messages/count_tokens": count_tokens,
    "/messages": messages,
    ":generateContent": gemini,
    ":streamGenerateContent": gemini_stream,
    ":batchEmbedContents": gemini_embeddings,
    "/api/chat": ollama,
    "/converse": bedrock,
    "/converse-stream": bedrock_stream,
    "/invoke": titan_embeddings,
    "/images/generations": images,
    "/images/edits": images,
    "/audio/speech": speech,
    "/audio/transcriptions": transcript,
    "/audio/translations": transcript,
    "/moderations": moderations,
    "/rerank": rerank,
}


async def _serve_for_ever(port: int) -> None:
    runner = web.AppRunner(Server().app(), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    print(f"port {runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    asyncio.run(_serve_for_ever(parser.parse_args().port))
