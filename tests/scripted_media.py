"""A real HTTP server that speaks OpenAI's images, audio and moderations and Cohere's and Jina's rerank, as a script says.

    python -m tests.scripted_media --port 0        prints "port N" and serves until it is stopped

The script is the first word of the text (`prompt`, `input`, `query`), a form's `prompt` among them:

    status:N      that status with an OpenAI error body       no-usage     an answer without usage
    half          drops the connection in the middle          garbage      not JSON
    json          JSON where audio was asked for              split        documents count threefold (rerank)
    huge          eight million characters for each picture
    absurd        a thousand million seconds, searches and tokens, a thousand images

Pictures and their tokens: `size` 1024x1024 takes 272, 1056 or 4160 tokens by quality. Speech plays a second for every ten
characters. A file of audio is as long as its name says ("7.5s.wav"). Rerank tells searches where the model begins with
"rerank", tokens otherwise: one for each word.

GET /journal -> {"requests": [{path, content_type, body, files}]}: a form's fields are the body, its files name and bytes.
"""

import argparse
import asyncio
import base64
import json
import struct
from typing import Any

from aiohttp import BodyPartReader, web

PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"pixels" * 40).decode()
TOKENS = {"low": 272, "medium": 1056, "high": 4160, "auto": 1056}
PROMPT_TOKENS = 11
ABSURD = 1e9
MP3_FRAME = b"\xff\xf3\x64\xc4" + bytes(140)  # MPEG-2 layer III, 48 kbit/s at 24 kHz: 576 samples, 24 ms in 144 bytes
MP3_FRAMES_A_SECOND = 41  # 984 ms


def speech(form: str, seconds: int) -> bytes:
    """Audio of that length, in one of the forms that can be measured."""
    if form == "pcm":
        return bytes(48_000 * seconds)
    if form == "wav":  # as a stream has it: its size is not known when it begins
        return _riff(24_000, 0xFFFFFFFF) + bytes(48_000 * seconds)
    return MP3_FRAME * (MP3_FRAMES_A_SECOND * seconds)


def wave(seconds: float, hz: int = 8_000) -> bytes:
    """A whole file of silence."""
    data = bytes(int(seconds * hz) * 2)
    return _riff(hz, len(data)) + data


def _riff(hz: int, size: int) -> bytes:
    whole = min(36 + size, 0xFFFFFFFF)
    told = b"RIFF", whole, b"WAVE", b"fmt ", 16, 1, 1, hz, hz * 2, 2, 16, b"data", size
    return struct.pack("<4sI4s4sIHHIIHH4sI", *told)


HARMS = (
    "hate", "hate/threatening", "harassment", "harassment/threatening", "illicit", "illicit/violent", "self-harm",
    "self-harm/intent", "self-harm/instructions", "sexual", "sexual/minors", "violence", "violence/graphic",
)  # fmt: skip


class Server:
    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []

    async def _read(self, request: web.Request) -> tuple[dict[str, Any], dict[str, Any]]:
        files: dict[str, Any] = {}
        if request.content_type == "multipart/form-data":
            body: dict[str, Any] = {}
            async for part in await request.multipart():
                assert isinstance(part, BodyPartReader)
                name = str(part.name)
                content = bytes(await part.read(decode=False))
                if part.filename is not None:
                    files[name] = [*files.get(name, []), (part.filename, part.headers.get("content-type", ""), content)]
                elif name.endswith("[]"):
                    body[name] = [*body.get(name, []), content.decode()]
                else:
                    body[name] = content.decode()
        else:
            body = await request.json()
        told = {name: [[each[0], each[1], len(each[2])] for each in found] for name, found in files.items()}
        self.requests.append({"path": request.path, "content_type": request.content_type, "body": body, "files": told})
        return body, files

    async def _scripted(self, script: str, request: web.Request) -> web.StreamResponse | None:
        if script.startswith("status:"):
            error = {"message": "scripted", "type": "server_error", "code": None}
            return web.json_response({"error": error}, status=int(script[7:]))
        if script == "garbage":
            return web.Response(text="<html>no</html>", content_type="text/html")
        return None

    async def images(self, request: web.Request) -> web.StreamResponse:
        body, files = await self._read(request)
        script = body["prompt"].split()[0]
        if found := await self._scripted(script, request):
            return found
        number = int(body.get("n") or 1)
        each = TOKENS.get(body.get("quality") or "auto", 0)
        read = 300 * sum(map(len, files.values()))
        details = {"text_tokens": PROMPT_TOKENS, "image_tokens": read}
        made = each * number + 100 * int(body.get("partial_images") or 0)
        usage = {"input_tokens": PROMPT_TOKENS + read, "input_tokens_details": details, "output_tokens": made}
        usage["total_tokens"] = PROMPT_TOKENS + read + made
        if str(body.get("stream", False)).lower() == "true":
            kind = "image_edit" if files else "image_generation"
            about = {"created_at": 1, "size": "1024x1024", "quality": "low", "background": "opaque", "output_format": "png"}
            events: list[dict[str, Any]] = [
                {"type": f"{kind}.partial_image", "b64_json": PIXEL * 3000, "partial_image_index": place, **about}
                for place in range(int(body.get("partial_images") or 0))
            ]
            events.append({"type": f"{kind}.completed", "b64_json": PIXEL, "usage": usage, **about})
            return await self._events(request, events, half=script == "half")
        number = 1_000 if script == "absurd" else number
        answer: dict[str, Any] = {"created": 1, "data": [{"b64_json": "A" * 8_000_000 if script == "huge" else PIXEL}] * number}
        if not body["model"].startswith("dall-e") and script != "no-usage":
            answer["usage"] = usage
        return web.json_response(answer)

    async def speech(self, request: web.Request) -> web.StreamResponse:
        body, _ = await self._read(request)
        text, form = body["input"], body.get("response_format") or "mp3"
        script = text.split()[0]
        if found := await self._scripted(script, request):
            return found
        if script == "json":
            return web.json_response({"oops": True})
        audio = speech(form, -(-len(text) // 10))
        if body.get("stream_format") == "sse":
            pieces = [audio[at : at + 5000] for at in range(0, len(audio), 5000)]
            events: list[dict[str, Any]] = [
                {"type": "speech.audio.delta", "audio": base64.b64encode(piece).decode()} for piece in pieces
            ]
            events.append({"type": "speech.audio.done", "usage": {"input_tokens": 9, "output_tokens": 41, "total_tokens": 50}})
            return await self._events(request, events)
        response = web.StreamResponse(headers={"content-type": f"audio/{form}"})
        await response.prepare(request)
        size = len(audio) // 2 if script == "half" else len(audio)
        for at in range(0, size, 1000):
            await response.write(audio[at : min(at + 1000, size)])
        if script == "half":
            assert request.transport is not None
            await asyncio.sleep(0.05)
            request.transport.abort()
        return response

    async def transcripts(self, request: web.Request) -> web.StreamResponse:
        body, files = await self._read(request)
        script = (body.get("prompt") or "plain").split()[0]
        if found := await self._scripted(script, request):
            return found
        seconds = ABSURD if script == "absurd" else float(files["file"][0][0].partition("s")[0])
        form = body.get("response_format") or "json"
        text = "one two three"
        usage: dict[str, Any] = {"type": "duration", "seconds": int(seconds + 0.999)}
        if body["model"].startswith("gpt-4o"):
            details = {"text_tokens": 2, "audio_tokens": int(seconds * 10)}
            made = int(seconds * 10) + 2
            usage = {"type": "tokens", "input_tokens": made, "input_token_details": details, "output_tokens": 5}
            usage["total_tokens"] = made + 5
        if body.get("stream") == "true":
            events: list[dict[str, Any]] = [
                {"type": "transcript.text.delta", "delta": word} for word in ("one ", "two ", "three")
            ]
            events.append({"type": "transcript.text.done", "text": text, "usage": usage})
            return await self._events(request, events, half=script == "half")
        if form == "text":
            return web.Response(text=text + "\n")
        if form in ("srt", "vtt"):
            end = f"00:00:{int(seconds):02d},{int(seconds * 1000 % 1000):03d}"
            return web.Response(text=f"1\n00:00:00,000 --> {end}\n{text}\n\n")
        answer: dict[str, Any] = {"text": text}
        if form == "verbose_json":
            answer |= {"task": "transcribe", "language": "english", "duration": seconds}
        elif script != "no-usage":
            answer["usage"] = usage
        return web.json_response(answer)

    async def moderations(self, request: web.Request) -> web.StreamResponse:
        body, _ = await self._read(request)
        if found := await self._scripted(str(body["input"]).split()[0], request):
            return found
        given = body["input"] if isinstance(body["input"], list) else [body["input"]]
        result = {
            "flagged": False,
            "categories": dict.fromkeys(HARMS, False),
            "category_scores": dict.fromkeys(HARMS, 0.01),
            "category_applied_input_types": {harm: ["text"] for harm in HARMS},
        }
        return web.json_response({"id": "modr-1", "model": body["model"], "results": [result] * len(given)})

    async def rerank(self, request: web.Request) -> web.StreamResponse:
        body, _ = await self._read(request)
        script = body["query"].split()[0]
        if found := await self._scripted(script, request):
            return found
        documents = body["documents"]
        results = [{"index": place, "relevance_score": 0.5} for place in range(len(documents))][: body.get("top_n") or None]
        if script == "no-usage":
            return web.json_response({"results": results})
        if body["model"].startswith("rerank"):
            searches = -(-len(documents) * (3 if script == "split" else 1) // 100)
            searches = int(ABSURD) if script == "absurd" else searches
            return web.json_response({"id": "r", "results": results, "meta": {"billed_units": {"search_units": searches}}})
        words = int(ABSURD) if script == "absurd" else sum(len(str(each).split()) for each in documents)
        return web.json_response({"results": results, "usage": {"total_tokens": words, "prompt_tokens": words}})

    async def journal(self, _: web.Request) -> web.StreamResponse:
        requests, self.requests = self.requests, []
        return web.json_response({"requests": requests})

    async def _events(self, request: web.Request, events: list[dict[str, Any]], *, half: bool = False) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for event in events[: len(events) - half]:
            data = f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
            for at in range(0, len(data), 100_000):
                await response.write(data[at : at + 100_000])
        return response


async def serve(port: int) -> None:
    server = Server()
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_post("/v1/images/generations", server.images)
    app.router.add_post("/v1/images/edits", server.images)
    app.router.add_post("/v1/audio/speech", server.speech)
    app.router.add_post("/v1/audio/transcriptions", server.transcripts)
    app.router.add_post("/v1/audio/translations", server.transcripts)
    app.router.add_post("/v1/moderations", server.moderations)
    app.router.add_post("/v1/rerank", server.rerank)
    app.router.add_get("/journal", server.journal)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    assert runner.addresses
    print(f"port {runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    asyncio.run(serve(parser.parse_args().port))
