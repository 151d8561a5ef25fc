"""A real HTTP server that speaks OpenAI's Responses API, stores what it answered, and misbehaves as the model's name says.

    python -m tests.scripted_responses --port 0        prints "port N" and serves until it is stopped

The model is a word, then options, as in `tests.scripted_upstream`: "ok:tokens=5,ms=10".

    ok              a message of `tokens` tokens " tokI"    no-usage         the same, and never a word of usage
    tools           a call of the first function             reasoning        a reasoning item first; half the tokens are its
    failed          ends as failed, before anything          error-event      an `error` event after two deltas
    die-midstream   drops the connection after two deltas    half-stream      closes cleanly there
    reject          400 with an OpenAI error                 cached           half of the prompt was cached, a quarter written
    json            the text is {"query": "x"}               forgetful        404 for a response that is not stored, not 400
    die-calling     drops the connection after two calls of built-in tools have begun

With the option `calls` the built-in tools are called so often in turn before the message, but not more often than
`max_tool_calls` says (`heedless=1`: all the same); each call brings in 100 tokens, and `pages` of them open pages instead of
searching. All code runs in one container.

Tokens are a rule: a prompt has 3, and one for each word of its texts, and those of the response that it follows. A cap below 16
is refused, a lower one than `tokens` makes the answer incomplete. Item ids in the input must be known here, as OpenAI has it.

GET /journal -> [{method, path, body, headers}]; DELETE /journal empties it.
"""

import argparse
import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any

from aiohttp import web

from tests.scripted_upstream import Script, words_of

CREATED = 1_700_000_000
SECRET = "sk-made-up-upstream-key at 10.1.2.3"


class Refusal(Exception):
    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code


class Server:
    """The handlers, the stored responses and the journal."""

    def __init__(self) -> None:
        self.journal: list[dict[str, Any]] = []
        self.stored: dict[str, dict[str, Any]] = {}
        self.inputs: dict[str, list[Any]] = {}
        self.count = 0

    def app(self) -> web.Application:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_post("/v1/responses", self.create)
        app.router.add_get("/v1/responses/{id}", self.retrieve)
        app.router.add_delete("/v1/responses/{id}", self.delete)
        app.router.add_get("/v1/responses/{id}/input_items", self.input_items)
        app.router.add_get("/journal", self.read_journal)
        app.router.add_delete("/journal", self.clear_journal)
        return app

    async def read_journal(self, request: web.Request) -> web.Response:
        return web.json_response(self.journal)

    async def clear_journal(self, request: web.Request) -> web.Response:
        self.journal = []
        return web.json_response({})

    def _note(self, request: web.Request, body: Any) -> None:
        headers = {name.lower(): value for name, value in request.headers.items()}
        entry = {"method": request.method, "path": request.path_qs, "body": body, "headers": headers}
        self.journal.append(entry)

    async def retrieve(self, request: web.Request) -> web.Response:
        self._note(request, await request.text())
        found = self.stored.get(request.match_info["id"])
        return web.json_response(found) if found else refused(Refusal(404, "no such response"))

    async def delete(self, request: web.Request) -> web.Response:
        self._note(request, await request.text())
        response_id = request.match_info["id"]
        if self.stored.pop(response_id, None) is None:
            return refused(Refusal(404, "no such response"))
        return web.json_response({"id": response_id, "object": "response", "deleted": True})

    async def input_items(self, request: web.Request) -> web.Response:
        self._note(request, await request.text())
        response_id = request.match_info["id"]
        if response_id not in self.stored:
            return refused(Refusal(404, "no such response"))
        data = self.inputs[response_id][: int(request.query.get("limit", 20))]
        return web.json_response({"object": "list", "data": data, "first_id": None, "last_id": None, "has_more": False})

    async def create(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self._note(request, body)
        script = Script(str(body.get("model", "")))
        try:
            response = self._begun(body, script)
        except Refusal as wrong:
            return refused(wrong)
        if not body.get("stream"):
            ended = self._ended(body, script, response)
            return web.json_response(ended)
        return await self._stream(request, body, script, response)

    def _begun(self, body: dict[str, Any], script: Script) -> dict[str, Any]:
        if script.name == "reject":
            raise Refusal(400, "scripted refusal", "input[0]")
        cap = body.get("max_output_tokens")
        if cap is not None and cap < 16:
            raise Refusal(400, "max_output_tokens is below the minimum of 16", "max_output_tokens")
        previous = body.get("previous_response_id")
        if previous is not None and previous not in self.stored:
            words = f"Previous response with id '{previous}' not found."
            if script.name == "forgetful":
                raise Refusal(404, words)
            raise Refusal(400, words, "previous_response_id", "previous_response_not_found")
        given = body.get("input", "")
        for item in given if isinstance(given, list) else ():
            if "id" in item:
                raise Refusal(404, f"Item with id '{item['id']}' not found.", "input")
        self.count += 1
        return {
            "id": f"resp_{self.count:048x}",
            "object": "response",
            "created_at": CREATED,
            "status": "in_progress",
            "model": body.get("model"),
            "output": [],
            "parallel_tool_calls": True,
            "previous_response_id": previous,
            "instructions": body.get("instructions"),
            "temperature": 1.0,
            "top_p": 1.0,
            "tool_choice": "auto",
            "tools": body.get("tools", []),
            "error": None,
            "incomplete_details": None,
            "usage": None,
            "metadata": body.get("metadata") or {"price": 0.1, "big": 12345678901234567890},  # the latter is none of OpenAI's
        }

    def _prompt(self, body: dict[str, Any]) -> int:
        given = body.get("input", "")
        total = 3 + len(str(body.get("instructions") or "").split())
        for item in [{"content": given}] if isinstance(given, str) else given:
            total += words_of(item.get("content") or item.get("output") or "")
        previous = self.stored.get(body.get("previous_response_id", ""))
        return total + (previous["usage"]["total_tokens"] if previous and previous["usage"] else 0)

    def _made(self, body: dict[str, Any], script: Script) -> tuple[int, bool]:
        wanted, cap = script.number("tokens", 20), body.get("max_output_tokens")
        return (int(cap), True) if cap is not None and cap < wanted else (wanted, False)

    def _items(self, body: dict[str, Any], script: Script, response: dict[str, Any]) -> list[dict[str, Any]]:
        number = response["id"][-8:]
        made, cut = self._made(body, script)
        status = "incomplete" if cut else "completed"
        if script.name == "failed":
            return []
        if script.name == "tools" and not any("output" in item for item in body["input"] if isinstance(item, dict)):
            call = {"type": "function_call", "id": f"fc_{number}", "call_id": f"call_{number}", "name": body["tools"][0]["name"]}
            return [{**call, "arguments": '{"query":"x"}', "status": status}]
        items = self._calls(body, script, number)
        if script.name == "reasoning":
            made -= made // 2
            items.append({"type": "reasoning", "id": f"rs_{number}", "summary": [], "encrypted_content": "gAAAA"})
        said = '{"query": "x"}' if script.name == "json" else "".join(f" tok{n}" for n in range(made))
        text = {"type": "output_text", "text": said, "annotations": [], "logprobs": []}
        message = {"type": "message", "id": f"msg_{number}", "status": status, "role": "assistant", "content": [text]}
        return [*items, message]

    def _calls(self, body: dict[str, Any], script: Script, number: str) -> list[dict[str, Any]]:
        tools = [each["type"] for each in body.get("tools", []) if each["type"] not in ("function", "custom", "namespace")]
        wanted, pages = int(script.number("calls", 0)), int(script.number("pages", 0))
        if not script.number("heedless", 0):
            wanted = min(wanted, body.get("max_tool_calls") or wanted)
        made: list[dict[str, Any]] = []
        for count in range(wanted if tools else 0):
            item: dict[str, Any] = {"id": f"call_{number}_{count}", "status": "completed"}
            match tools[count % len(tools)]:
                case "code_interpreter":
                    item |= {"type": "code_interpreter_call", "code": "print(1)", "container_id": f"cntr_{number}"}
                    item |= {"outputs": None}
                case "file_search":
                    item |= {"type": "file_search_call", "queries": ["x"], "results": None}
                case _:
                    page = {"type": "open_page", "url": "https://example.com/"}
                    searched = {"type": "search", "query": "x", "queries": ["x", "y"]}
                    item |= {"type": "web_search_call", "action": page if count < pages else searched}
            made.append(item)
        return made

    def _ended(self, body: dict[str, Any], script: Script, response: dict[str, Any]) -> dict[str, Any]:
        made, cut = self._made(body, script)
        prompt = self._prompt(body) + 100 * len(self._calls(body, script, ""))
        usage = {
            "input_tokens": prompt,
            "input_tokens_details": {
                "cached_tokens": prompt // 2 if script.name == "cached" else 0,
                "cache_write_tokens": prompt // 4 if script.name == "cached" else 0,
            },
            "output_tokens": made,
            "output_tokens_details": {"reasoning_tokens": made // 2 if script.name == "reasoning" else 0},
            "total_tokens": prompt + made,
        }
        ended = {**response, "status": "completed", "output": self._items(body, script, response), "usage": usage}
        if cut:
            ended |= {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
        if script.name == "failed":
            ended |= {"status": "failed", "usage": None, "error": {"code": "server_error", "message": f"failed: {SECRET}"}}
        if script.name == "no-usage":
            ended["usage"] = None
        if body.get("store") is not False:
            self.stored[response["id"]] = ended
            given = body.get("input", "")
            self.inputs[response["id"]] = given if isinstance(given, list) else [{"type": "message", "content": given}]
        return ended

    async def _stream(
        self, request: web.Request, body: dict[str, Any], script: Script, response: dict[str, Any]
    ) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await answer.prepare(request)
        pause_s, deltas, calls = script.number("ms", 0) / 1000, 0, 0
        for number, (kind, fields) in enumerate(self._events(body, script, response)):
            event = {"type": kind, **fields, "sequence_number": number}
            await answer.write(b"event: " + kind.encode() + b"\ndata: " + json.dumps(event).encode() + b"\n\n")
            deltas += kind.endswith(".delta")
            calls += kind == "response.output_item.added" and fields["item"]["type"].endswith("search_call")
            if calls == 2 and script.name == "die-calling":
                await asyncio.sleep(0.02)
                assert request.transport is not None
                request.transport.close()
                return answer
            if pause_s and kind.endswith(".delta"):
                await asyncio.sleep(pause_s)
            if deltas == 2 and script.name in ("die-midstream", "half-stream", "error-event"):
                if script.name == "die-midstream":
                    await asyncio.sleep(0.02)
                    assert request.transport is not None
                    request.transport.close()
                elif script.name == "error-event":
                    error = {
                        "type": "error",
                        "code": "server_error",
                        "message": f"overloaded: {SECRET}",
                        "sequence_number": number,
                    }
                    await answer.write(b"event: error\ndata: " + json.dumps(error).encode() + b"\n\n")
                return answer
        await answer.write_eof()
        return answer

    def _events(self, body: dict[str, Any], script: Script, response: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        yield "response.created", {"response": response}
        yield "response.in_progress", {"response": response}
        for place, item in enumerate(self._items(body, script, response)):
            at: dict[str, Any] = {"output_index": place, "item_id": item["id"]}
            bare: dict[str, Any] = (
                {"arguments": ""} if item["type"] == "function_call" else {"content": []} if item["type"] == "message" else {}
            )
            begun = {**item, "status": "in_progress", **bare}
            begun.pop("action", None)  # nobody knows yet
            yield "response.output_item.added", {"output_index": place, "item": begun}
            if item["type"] == "function_call":
                for piece in (item["arguments"][:5], item["arguments"][5:]):
                    yield "response.function_call_arguments.delta", {**at, "delta": piece}
                yield "response.function_call_arguments.done", {**at, "arguments": item["arguments"], "name": item["name"]}
            if item["type"] == "message":
                part = item["content"][0]
                at["content_index"] = 0
                yield "response.content_part.added", {**at, "part": {**part, "text": ""}}
                for word in re.findall(r"\s*\S+", part["text"]):
                    yield "response.output_text.delta", {**at, "delta": word, "logprobs": []}
                yield "response.output_text.done", {**at, "text": part["text"], "logprobs": []}
                yield "response.content_part.done", {**at, "part": part}
            yield "response.output_item.done", {"output_index": place, "item": item}
        ended = self._ended(body, script, response)
        yield f"response.{ended['status']}", {"response": ended}


def refused(wrong: Refusal) -> web.Response:
    error = {"message": str(wrong), "type": "invalid_request_error", "param": wrong.param, "code": wrong.code}
    return web.json_response({"error": error}, status=wrong.status)


async def serve(port: int) -> None:
    runner = web.AppRunner(Server().app(), access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    print(f"port {runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    asyncio.run(serve(parser.parse_args().port))
