"""Images, audio, moderations and ranking through a whole gateway, by the official client; costs to the micro-unit."""

import base64
import io
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from tests.path.conftest import Process, Stack, plain_env, start_gateway
from tests.scripted_media import MP3_FRAMES_A_SECOND, speech, wave

FUNDS = 100_000_000
PROMPT = "a cat"


@pytest.fixture(scope="module")
def media_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    process = Process(
        [sys.executable, "-m", "tests.scripted_media", "--port", "0"], plain_env(), tmp_path_factory.mktemp("media") / "log"
    )  # fmt: skip
    try:
        port = process.wait_for(r"port (\d+)").group(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.stop()


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory, media_url: str) -> Iterator[Stack]:
    """A gateway whose models have the shipped list's prices, unless they are named here; audited clean at the end."""

    def model(name: str, prices: dict[str, str] | None = None, **deployment: Any) -> dict[str, Any]:
        given = {"provider": "openai", "model": name, "api_base": media_url, "api_key": "sk-made-up-key", **deployment}
        return {"name": name, "deployments": [given], **({"prices": prices} if prices else {})}

    listed = (
        "gpt-image-1",
        "tts-1",
        "gpt-4o-mini-tts",
        "whisper-1",
        "gpt-4o-transcribe",
        "omni-moderation-latest",
        "gpt-4o-mini",
    )
    models = [
        *map(model, listed),
        model("dall-e-3", {"images": "0.04"}),
        model("rerank-v3.5", {"searches": "0.002"}),
        model("word-ranker", {"input": "0.02", "output": "0"}),
        model("mystery", None),
        model("gemini-2.5-flash-image", {"images": "0.04"}, provider="gemini"),
        model("whisper-large-v3", None, provider="groq", speaks=["audio"]),
    ]
    cheap = model("spare-whisper", {"seconds": "0.0001"})["deployments"][0]
    dear = model("spare-whisper", {"seconds": "0.0003"})["deployments"][0]
    down = {**cheap, "api_base": "http://127.0.0.1:9/v1", "prices": {"seconds": "0.0001"}}
    models.append(
        {"name": "spare-whisper", "strategy": "order", "deployments": [down, {**dear, "prices": {"seconds": "0.0003"}}]}
    )
    stack = start_gateway(tmp_path_factory.mktemp("gateway"), media_url, more_models=models)
    try:
        yield stack
        print(stack.cli("audit"))
    finally:
        stack.admin.close()
        stack.process.stop()


class Caller:
    """An end user of the one app, with money of its own."""

    app = key = ""
    count = 0

    def __init__(self, stack: Stack, funds_micro: int = FUNDS) -> None:
        if not Caller.key:
            Caller.app = stack.app()
            Caller.key = stack.key(Caller.app)
        Caller.count += 1
        self.user = f"user-{Caller.count}"
        self.stack = stack
        self.funds = funds_micro
        stack.fund(self.app, self.user, funds_micro)
        self.headers = {"X-Platform-User-Id": self.user}

    @property
    def client(self) -> OpenAI:
        return OpenAI(
            base_url=self.stack.url + "/v1", api_key=self.key, max_retries=0, default_headers=self.headers, http_client=HTTP
        )  # fmt: skip

    def billed(self, count: int = 1) -> dict[str, Any]:
        """The last event of so many; the wallet has what is left, and nothing is held."""
        deadline = time.monotonic() + 60
        while True:
            rows = self.stack.get(f"/apps/{self.app}/usage-events", limit=200)["data"]
            events: list[dict[str, Any]] = [row for row in rows if row["platform_user_id"] == self.user]
            if len(events) >= count or time.monotonic() > deadline:
                break
            time.sleep(0.02)
        assert len(events) == count
        spent = sum(event["amount_micro"] for event in events)
        self.has(self.funds - spent)
        return events[0]

    def has(self, available_micro: int) -> None:
        """Nothing is held, and this is there."""
        wallet = self.stack.wallet(self.app, self.user)
        assert (wallet["available_micro"], wallet["held_micro"]) == (available_micro, 0)

    def post(self, path: str, **given: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.key}", **self.headers, **given.pop("headers", {})}
        return HTTP.post(f"{self.stack.url}/v1{path}", headers=headers, timeout=60, **given)


HTTP = httpx.Client()


@pytest.fixture
def caller(media: Stack) -> Caller:
    return Caller(media)


@pytest.fixture(scope="module")
def refused_caller(media: Stack) -> Caller:
    """Whose money nobody takes."""
    return Caller(media)


@pytest.fixture(autouse=True)
def _fresh_journal(media: Stack) -> None:
    journal(media)


def journal(stack: Stack) -> list[dict[str, Any]]:
    requests: list[dict[str, Any]] = httpx.get(stack.upstream_url.removesuffix("/v1") + "/journal", timeout=60).json()["requests"]
    return requests


def units(event: dict[str, Any]) -> dict[str, int]:
    return {kind: number for kind, number in event["units"].items() if number}


# ---- images ------------------------------------------------------------------------------------------


def test_an_image_of_tokens_costs_the_text_read_and_the_tokens_made(caller: Caller) -> None:
    raw = caller.client.images.with_raw_response.generate(
        model="gpt-image-1", prompt=PROMPT, quality="high", size="1024x1024", n=2
    )
    assert len(raw.parse().data or []) == 2
    event = caller.billed()
    assert units(event) == {"input": 11, "image_output": 8320, "images": 2}
    assert event["amount_micro"] == event["provider_cost_micro"] == 11 * 5 + 8320 * 40
    assert raw.headers["x-mozaiks-cost"] == "0.332855"
    assert (event["endpoint"], event["usage_source"], event["flags"]) == ("/images/generations", "upstream", [])


def test_an_image_that_is_sold_by_the_piece_costs_its_price(caller: Caller) -> None:
    answer = caller.client.images.generate(model="dall-e-3", prompt=PROMPT, n=3)
    assert len(answer.data or []) == 3
    event = caller.billed()
    assert units(event) == {"images": 3}
    assert event["amount_micro"] == 3 * 40_000


def test_streamed_pictures_pass_and_the_last_event_tells_the_cost_to_those_who_ask(caller: Caller) -> None:
    stream = caller.client.images.generate(
        model="gpt-image-1", prompt=PROMPT, stream=True, partial_images=2, quality="low", extra_headers={"X-Include-Cost": "true"}
    )  # fmt: skip
    events: list[Any] = list(stream)
    assert [each.type for each in events] == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    assert len(events[0].b64_json) > 900_000
    event = caller.billed()
    assert units(event) == {"input": 11, "image_output": 472, "images": 1}
    assert event["amount_micro"] == 11 * 5 + 472 * 40
    assert round(events[-1].usage.cost * 1_000_000) == event["amount_micro"]
    quiet: list[Any] = list(caller.client.images.generate(model="gpt-image-1", prompt=PROMPT, stream=True))
    assert not hasattr(quiet[-1].usage, "cost")


def test_an_edit_sends_the_pictures_on_and_bills_what_was_read(caller: Caller, media: Stack) -> None:
    pictures = [("a.png", b"\x89PNG" + bytes(5000), "image/png"), ("b.png", b"\x89PNG" + bytes(70_000), "image/png")]
    caller.client.images.edit(model="gpt-image-1", prompt=PROMPT, image=pictures, mask=("m.png", b"mask"), quality="medium")
    event = caller.billed()
    assert units(event) == {"input": 11, "image_input": 900, "image_output": 1056, "images": 1}
    assert event["amount_micro"] == 11 * 5 + 900 * 10 + 1056 * 40
    [sent] = journal(media)
    assert sent["body"] == {"model": "gpt-image-1", "prompt": PROMPT, "quality": "medium"}
    assert sent["files"] == {
        "image[]": [["a.png", "image/png", 5004], ["b.png", "image/png", 70_004]],
        "mask": [["m.png", "image/png", 4]],
    }  # fmt: skip


def test_a_picture_without_usage_costs_the_most_that_it_can_have_taken(caller: Caller) -> None:
    caller.client.images.generate(model="gpt-image-1", prompt="no-usage", quality="low")
    event = caller.billed()
    assert (units(event), event["flags"]) == ({"image_output": 408, "images": 1}, ["estimated"])
    assert event["amount_micro"] == 408 * 40


# ---- speech ------------------------------------------------------------------------------------------


def test_speech_by_the_character_passes_as_bytes(caller: Caller) -> None:
    text = "Grüße an alle, in 38 Zeichen sind es…!"
    answer = caller.client.audio.speech.create(model="tts-1", voice="alloy", input=text)
    assert answer.content == speech("mp3", 4)
    assert answer.response.headers["content-type"] == "audio/mp3"
    event = caller.billed()
    assert units(event) == {"characters": 38, "seconds": 4}
    assert event["amount_micro"] == 38 * 15
    assert event["streamed"] is False


@pytest.mark.parametrize(("form", "seconds"), [("mp3", 2), ("wav", 2), ("pcm", 2)])
def test_speech_by_the_second_is_measured_as_it_passes(caller: Caller, form: Any, seconds: int) -> None:
    answer = caller.client.audio.speech.create(
        model="gpt-4o-mini-tts", voice="alloy", input="nineteen characters", response_format=form
    )
    assert answer.content == speech(form, seconds)
    event = caller.billed()
    assert event["units"]["seconds"] == seconds
    read = event["units"]["input"]
    assert 0 < read < 10
    assert event["amount_micro"] == -(-(read * 600_000 + seconds * 250_000_000) // 1_000_000)


def test_speech_in_events_is_measured_too(caller: Caller) -> None:
    with caller.client.audio.speech.with_streaming_response.create(
        model="gpt-4o-mini-tts", voice="alloy", input="nineteen characters", stream_format="sse"
    ) as answer:  # fmt: skip
        lines = [json.loads(line[5:]) for line in answer.iter_lines() if line.startswith("data:")]
    audio = b"".join(base64.b64decode(line["audio"]) for line in lines[:-1])
    assert audio == speech("mp3", 2)
    event = caller.billed()
    assert units(event) == {"input": 9, "audio_output": 41, "characters": 19, "seconds": 2}
    assert event["amount_micro"] == -(-(9 * 600_000 + 2 * 250_000_000) // 1_000_000)
    assert event["streamed"]


def test_speech_whose_form_does_not_tell_its_length_costs_the_most_that_was_held(caller: Caller) -> None:
    caller.client.audio.speech.create(model="gpt-4o-mini-tts", voice="alloy", input="nineteen characters", response_format="flac")
    event = caller.billed()
    assert (event["units"]["seconds"], event["flags"]) == (10, ["estimated"])


def test_speech_that_breaks_off_costs_what_came(caller: Caller) -> None:
    text = "half " + "x" * 995
    answer = caller.client.audio.speech.create(model="gpt-4o-mini-tts", voice="alloy", input=text, response_format="pcm")
    assert answer.content == speech("pcm", 50)
    event = caller.billed()
    assert event["units"]["seconds"] == 50
    assert event["status"] == "upstream_broke"


# ---- transcripts -------------------------------------------------------------------------------------


def test_whisper_costs_its_seconds_as_told(caller: Caller, media: Stack) -> None:
    found = caller.client.audio.transcriptions.create(model="whisper-1", file=("7.5s.wav", wave(7.5)), language="en")
    assert found.text == "one two three"
    event = caller.billed()
    assert units(event) == {"seconds": 8}
    assert event["amount_micro"] == 8 * 100
    [sent] = journal(media)
    assert sent["body"] == {"model": "whisper-1", "language": "en"}
    assert sent["files"] == {"file": [["7.5s.wav", "audio/x-wav", 120_044]]}


@pytest.mark.parametrize("form", ["text", "srt", "vtt", "verbose_json"])
def test_a_transcript_that_tells_no_usage_costs_the_seconds_of_the_file(caller: Caller, form: Any) -> None:
    found = caller.client.audio.transcriptions.create(model="whisper-1", file=("3.2s.wav", wave(3.2)), response_format=form)
    assert "one two three" in (found if isinstance(found, str) else found.text)
    event = caller.billed()
    assert (units(event), event["amount_micro"], event["flags"]) == ({"seconds": 4}, 400, [])


def test_captions_that_go_on_behind_the_file_s_word_count(caller: Caller) -> None:
    short = bytearray(wave(9.0))
    short[40:44] = (16_000).to_bytes(4, "little")  # it says one second, and the transcriber heard nine
    caller.client.audio.transcriptions.create(model="whisper-1", file=("9s.wav", bytes(short)), response_format="srt")
    assert units(caller.billed()) == {"seconds": 9}


def test_a_transcript_of_tokens_costs_text_and_audio(caller: Caller) -> None:
    caller.client.audio.transcriptions.create(model="gpt-4o-transcribe", file=("4s.wav", wave(4)), prompt="plain words")
    event = caller.billed()
    assert units(event) == {"input": 2, "audio_input": 40, "output": 5, "seconds": 4}
    assert event["amount_micro"] == -(-(2 * 25 + 40 * 25 + 5 * 100) // 10)


def test_a_transcript_streams(caller: Caller) -> None:
    stream = caller.client.audio.transcriptions.create(model="gpt-4o-transcribe", file=("4s.wav", wave(4)), stream=True)
    events: list[Any] = list(stream)
    assert [event.type for event in events] == ["transcript.text.delta"] * 3 + ["transcript.text.done"]
    assert units(caller.billed()) == {"input": 2, "audio_input": 40, "output": 5, "seconds": 4}


def test_a_streamed_transcript_that_breaks_off_is_estimated(caller: Caller) -> None:
    stream = caller.client.audio.transcriptions.create(
        model="gpt-4o-transcribe", file=("4s.wav", wave(4)), stream=True, prompt="half"
    )  # fmt: skip
    with pytest.raises(openai.APIError):
        list(stream)
    event = caller.billed()
    assert (units(event), event["status"]) == ({"audio_input": 40, "output": 3, "seconds": 4}, "upstream_broke")
    assert "estimated" in event["flags"]


def test_a_translation_is_billed_alike(caller: Caller, media: Stack) -> None:
    found = caller.client.audio.translations.create(model="whisper-1", file=("2s.wav", wave(2)))
    assert found.text
    event = caller.billed()
    assert (event["endpoint"], event["amount_micro"]) == ("/audio/translations", 200)
    assert journal(media)[0]["path"] == "/v1/audio/translations"


def test_a_provider_that_speaks_it_itself_is_asked_over_the_byte_path(caller: Caller) -> None:
    caller.client.audio.transcriptions.create(model="whisper-large-v3", file=("10s.wav", wave(10)))
    event = caller.billed()
    assert (event["provider"], event["amount_micro"]) == ("groq", 309)  # 10 s at 30.83 micro-USD


def test_a_dearer_spare_is_held_for_before_it_is_asked(media: Stack) -> None:
    caller = Caller(media)
    caller.client.audio.transcriptions.create(model="spare-whisper", file=("10s.wav", wave(10)))
    assert caller.billed()["amount_micro"] == 3_000
    poor = Caller(media, funds_micro=1_500)  # enough for the first, not for the spare
    with pytest.raises(openai.APIStatusError) as failed:
        poor.client.audio.transcriptions.create(model="spare-whisper", file=("10s.wav", wave(10)))
    assert failed.value.status_code == 502
    poor.has(1_500)


# ---- moderations and ranking -------------------------------------------------------------------------


def test_moderation_is_free_where_the_list_says_so(media: Stack) -> None:
    caller = Caller(media, funds_micro=1)
    found = caller.client.moderations.create(model="omni-moderation-latest", input=["one", "two"])
    assert len(found.results) == 2
    assert caller.billed()["amount_micro"] == 0
    assert caller.client.moderations.create(input="one").model == "omni-moderation-latest"  # as at OpenAI


def test_ranking_by_the_search_costs_what_was_billed(caller: Caller) -> None:
    body = {"model": "rerank-v3.5", "query": "split it", "documents": ["a document"] * 150, "top_n": 3}
    answer = caller.post("/rerank", json=body)
    assert answer.status_code == 200, answer.text
    assert [result["index"] for result in answer.json()["results"]] == [0, 1, 2]
    event = caller.billed()
    assert (units(event), event["amount_micro"]) == ({"searches": 5}, 10_000)
    assert answer.headers["x-mozaiks-cost"] == "0.01"


def test_ranking_by_the_token_costs_the_tokens_told_or_those_counted(caller: Caller) -> None:
    body = {"model": "word-ranker", "query": "which", "documents": ["one two three", "four five"]}
    caller.post("/rerank", json=body)
    event = caller.billed()
    assert (event["units"]["input"], event["amount_micro"]) == (5, 1)
    caller.post("/rerank", json={**body, "query": "no-usage"})
    event = caller.billed(2)
    assert event["flags"] == ["estimated"]
    assert event["units"]["input"] >= 5


def test_a_whole_answer_of_large_pictures_is_delivered_and_billed(caller: Caller) -> None:
    answer = caller.post("/images/generations", json={"model": "dall-e-3", "prompt": "huge", "n": 10})
    assert (answer.status_code, len(answer.content) > 10 * 8_000_000) == (200, True)
    event = caller.billed()
    assert (units(event), event["amount_micro"]) == ({"images": 10}, 400_000)


@pytest.mark.parametrize(
    ("model", "used", "cost_micro"),
    [("dall-e-3", {"images": 1}, 40_000), ("gpt-image-1", {"images": 1, "image_output": 408 + 200}, 24_320)],
)
def test_a_stream_that_ends_after_partial_pictures_is_billed_as_it_was_held(
    caller: Caller, model: str, used: dict[str, int], cost_micro: int
) -> None:
    body = {"model": model, "prompt": "half", "stream": True, "partial_images": 2, "quality": "low"}
    answer = caller.post("/images/generations", json=body)
    assert answer.text.count('"partial_image_index"') == 2
    event = caller.billed()
    assert (event["status"], event["flags"]) == ("upstream_broke", ["estimated"])
    assert (units(event), event["amount_micro"]) == (used, cost_micro)


def test_a_stream_that_ends_before_anything_was_delivered_costs_nothing(caller: Caller) -> None:
    body = {"model": "dall-e-3", "prompt": "half", "stream": True, "quality": "low"}
    assert caller.post("/images/generations", json=body).status_code == 502
    caller.has(FUNDS)


@pytest.mark.parametrize(
    ("ask", "used", "cost_micro"),
    [
        (("/rerank", {"json": {"model": "rerank-v3.5", "query": "absurd", "documents": ["a"]}}), {"searches": 1}, 2_000),
        (("/images/generations", {"json": {"model": "dall-e-3", "prompt": "absurd"}}), {"images": 1}, 40_000),
        (
            (
                "/audio/transcriptions",
                {"data": {"model": "whisper-1", "prompt": "absurd"}, "files": {"file": ("2s.wav", wave(2))}},
            ),
            {"seconds": 2},
            200,
        ),
    ],
)
def test_units_far_above_what_was_held_are_not_believed(caller: Caller, ask: Any, used: Any, cost_micro: int) -> None:
    path, given = ask
    assert caller.post(path, **given).status_code == 200
    event = caller.billed()
    assert (units(event), event["flags"], event["amount_micro"]) == (used, ["usage_absurd"], cost_micro)


def test_tokens_far_above_what_was_held_are_not_believed(caller: Caller) -> None:
    caller.post("/rerank", json={"model": "word-ranker", "query": "absurd", "documents": ["a document"] * 10})
    event = caller.billed()
    assert event["flags"] == ["usage_absurd"]
    assert event["units"]["input"] <= 10 * (6 + 8 + 10)


# ---- what is refused, and what costs nothing ---------------------------------------------------------


def test_a_wallet_that_does_not_cover_it_is_refused_before_anything_is_sent(media: Stack) -> None:
    poor = Caller(media, funds_micro=1_000)
    client = poor.client
    for send in (
        lambda: client.images.generate(model="gpt-image-1", prompt=PROMPT, quality="low"),
        lambda: client.images.generate(model="dall-e-3", prompt=PROMPT),
        lambda: client.audio.speech.create(model="tts-1", voice="alloy", input="x" * 67),
        lambda: client.audio.transcriptions.create(model="whisper-1", file=("11s.wav", wave(11))),
    ):
        with pytest.raises(openai.APIStatusError) as refused:
            send()
        assert (refused.value.status_code, refused.value.code) == (402, "insufficient_balance")
    assert journal(media) == []
    client.audio.transcriptions.create(model="whisper-1", file=("10s.wav", wave(10)))  # 1,000 micro-USD to the last
    assert poor.billed()["amount_micro"] == 1_000


def test_what_has_no_price_is_refused(refused_caller: Caller, media: Stack) -> None:
    for send in (
        lambda: refused_caller.client.images.generate(model="mystery", prompt=PROMPT),
        lambda: refused_caller.client.audio.speech.create(model="mystery", voice="alloy", input="hello"),
        lambda: refused_caller.client.moderations.create(model="mystery", input="hello"),
    ):
        with pytest.raises(openai.APIStatusError) as refused:
            send()
        assert (refused.value.status_code, refused.value.code) == (402, "unpriced_model")
    assert journal(media) == []


def test_an_app_that_sells_by_the_token_does_not_give_pictures_away(media: Stack) -> None:
    app = media.app()
    media.fund(app, "ann", FUNDS)
    price = {"model": "dall-e-3", "prices": {"input": "1", "output": "2"}}
    media.post(f"/apps/{app}/price-books", price, idempotency_key="token-price")
    client = OpenAI(
        base_url=media.url + "/v1",
        api_key=media.key(app),
        max_retries=0,
        default_headers={"X-Platform-User-Id": "ann"},
        http_client=HTTP,
    )
    with pytest.raises(openai.APIStatusError) as refused:
        client.images.generate(model="dall-e-3", prompt=PROMPT)
    assert (refused.value.status_code, refused.value.code) == (402, "unpriced_model")


@pytest.mark.parametrize(
    ("path", "model", "more"),
    [
        ("/images/generations", "gpt-4o-mini", {"prompt": "x"}),
        ("/audio/speech", "gpt-image-1", {"input": "x", "voice": "alloy"}),
        ("/rerank", "tts-1", {"query": "x", "documents": ["y"]}),
        ("/moderations", "gpt-4o-mini", {"input": "x"}),
        ("/chat/completions", "gpt-image-1", {"messages": [{"role": "user", "content": "x"}]}),
        ("/embeddings", "whisper-1", {"input": "x"}),
        ("/images/generations", "gemini-2.5-flash-image", {"prompt": "x"}),
    ],
)
def test_a_surface_that_the_model_cannot_serve_is_named(
    refused_caller: Caller, media: Stack, path: str, model: str, more: Any
) -> None:
    answer = refused_caller.post(path, json={"model": model, **more})
    assert answer.status_code == 400, answer.text
    assert path in answer.json()["error"]["message"]
    assert answer.json()["error"]["param"] == "model"
    assert journal(media) == []
    refused_caller.has(FUNDS)


@pytest.mark.parametrize("script", ["status:500", "garbage", "status:400"])
def test_a_provider_that_fails_costs_nothing(refused_caller: Caller, media: Stack, script: str) -> None:
    for send in (
        lambda: refused_caller.client.images.generate(model="gpt-image-1", prompt=script),
        lambda: refused_caller.client.audio.transcriptions.create(model="whisper-1", file=("2s.wav", wave(2)), prompt=script),
        lambda: refused_caller.client.moderations.create(model="omni-moderation-latest", input=script),
    ):
        with pytest.raises(openai.APIStatusError) as failed:
            send()
        assert failed.value.status_code == (400 if script == "status:400" else 502)
    refused_caller.has(FUNDS)


def test_speech_that_is_no_audio_costs_nothing(refused_caller: Caller, media: Stack) -> None:
    with pytest.raises(openai.InternalServerError):
        refused_caller.client.audio.speech.create(model="tts-1", voice="alloy", input="json please")
    refused_caller.has(FUNDS)


def form_of(*parts: tuple[str, str | None, bytes], end: bytes = b"--b--\r\n") -> dict[str, Any]:
    body = io.BytesIO()
    for name, filename, content in parts:
        told = f'; filename="{filename}"' if filename is not None else ""
        body.write(f'--b\r\nContent-Disposition: form-data; name="{name}"{told}\r\n\r\n'.encode() + content + b"\r\n")
    return {"content": body.getvalue() + end, "headers": {"content-type": "multipart/form-data; boundary=b"}}


MODEL = ("model", None, b"whisper-1")
FILE = ("file", "1s.wav", wave(1))


@pytest.mark.parametrize(
    ("given", "status", "param"),
    [
        (form_of(MODEL), 400, "file"),
        (form_of(FILE), 400, "model"),
        (form_of(MODEL, MODEL, FILE), 400, "model"),
        (form_of(MODEL, FILE, FILE), 400, "file"),
        (form_of(MODEL, ("file", "x.wav", b"")), 400, "file"),
        (form_of(MODEL, ("other", "x.wav", b"1")), 400, "other"),
        (form_of(MODEL, FILE, ("response_format", None, b"gold")), 400, "response_format"),
        (form_of(MODEL, FILE, ("stream", None, b"maybe")), 400, "stream"),
        (form_of(MODEL, ("file", "x.mp3", b"noise" * 20), ("response_format", None, b"text")), 400, "response_format"),
        (form_of(MODEL, FILE, *[("include[]", None, b"x")] * 64), 400, None),
        (form_of(MODEL, FILE, ("prompt", None, b"x" * 300_000)), 413, "prompt"),
        (form_of(MODEL, ("file", "x.wav", bytes(25 * 1024 * 1024 + 1))), 413, "file"),
        (form_of(MODEL, FILE, ("prompt", None, bytes(27 * 1024 * 1024))), 413, None),
        (form_of(MODEL, FILE, end=b""), 400, None),
        ({"content": b"--b", "headers": {"content-type": "multipart/form-data"}}, 400, None),
        ({"json": {"model": "whisper-1"}}, 415, "content-type"),
    ],
)  # fmt: skip
def test_a_form_that_is_not_right_is_refused(
    refused_caller: Caller, media: Stack, given: Any, status: int, param: str | None
) -> None:
    answer = refused_caller.post("/audio/transcriptions", **given)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["param"] == param
    assert journal(media) == []


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/images/generations", {"model": "gpt-image-1"}, "prompt"),
        ("/images/generations", {"model": "gpt-image-1", "prompt": "x", "n": 11}, "n"),
        ("/images/generations", {"model": "gpt-image-1", "prompt": "x", "size": "huge"}, "size"),
        ("/images/generations", {"model": "gpt-image-1", "prompt": "x", "quality": "8k"}, "quality"),
        ("/images/generations", {"model": "gpt-image-1", "prompt": "x", "n": 2, "stream": True}, "n"),
        ("/images/generations", {"model": "gpt-image-1", "prompt": "x", "image": "y"}, "image"),
        ("/audio/speech", {"model": "tts-1", "voice": "alloy"}, "input"),
        ("/audio/speech", {"model": "tts-1", "voice": "alloy", "input": "x" * 100_001}, "input"),
        ("/audio/speech", {"model": "tts-1", "voice": "alloy", "input": "x", "speed": 0}, "speed"),
        ("/audio/speech", {"model": "tts-1", "voice": "alloy", "input": "x", "response_format": "midi"}, "response_format"),
        ("/moderations", {"model": "omni-moderation-latest", "input": [1]}, "input[0]"),
        ("/rerank", {"model": "rerank-v3.5", "query": "x", "documents": []}, "documents"),
        ("/rerank", {"model": "rerank-v3.5", "query": "x", "documents": [{"image": "y"}]}, "documents[0]"),
        ("/rerank", {"model": "rerank-v3.5", "documents": ["x"]}, "query"),
    ],
)
def test_a_body_that_is_not_right_is_refused(refused_caller: Caller, path: str, body: Any, param: str) -> None:
    answer = refused_caller.post(path, json=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


# ---- what the models are ------------------------------------------------------------------------------


def models_of(stack: Stack, key: str) -> dict[str, dict[str, Any]]:
    answer = HTTP.get(stack.url + "/v1/models", headers={"authorization": f"Bearer {key}"})
    assert answer.status_code == 200, answer.text
    return {model["id"]: model for model in answer.json()["data"]}


def test_models_are_listed_with_what_this_caller_pays_and_what_they_are_for(media: Stack) -> None:
    app = media.app(markup_percent="50")
    found = models_of(media, media.key(app))
    assert found["gpt-image-1"] == {
        "id": "gpt-image-1",
        "object": "model",
        "created": found["gpt-4o-mini"]["created"],
        "owned_by": "openai",
        "context_window": None,
        "max_output_tokens": None,
        "capabilities": found["gpt-image-1"]["capabilities"],
        "surfaces": ["/images/edits", "/images/generations"],
        "pricing": {"asset": "USD", "input": "7.5", "output": "60", "image_input": "15"},
    }
    chat = found["gpt-4o-mini"]
    assert (chat["context_window"], chat["max_output_tokens"]) == (128_000, 16_384)
    assert {"vision", "tools", "structured_output"} <= set(chat["capabilities"])
    assert "/chat/completions" in chat["surfaces"]
    assert "/embeddings" not in chat["surfaces"]
    assert (chat["pricing"]["input"], chat["pricing"]["output"]) == ("0.225", "0.9")
    assert found["whisper-1"]["pricing"] == {"asset": "USD", "seconds": "0.00015"}
    assert found["omni-moderation-latest"]["pricing"] == {"asset": "USD", "input": "0"}
    # What has no price is refused, but of apps that set one themselves, or are not charged: nobody else sees it.
    assert "mystery" not in found
    assert HTTP.get(media.url + "/v1/models/mystery", headers={"authorization": f"Bearer {media.key(app)}"}).status_code == 404
    measured = models_of(media, media.key(media.app(enforcement="analytics_only")))
    assert (measured["mystery"]["pricing"], measured["mystery"]["surfaces"]) == (None, None)
    for policy, seen in (("platform_pays", True), ("creator_pays", False)):
        priced = media.app(cost_policy=policy)
        media.post(f"/apps/{priced}/price-books", {"model": "mystery", "prices": {"input": "1", "output": "2"}})
        assert ("mystery" in models_of(media, media.key(priced))) is seen
        assert "mystery" not in models_of(media, media.key(priced, "platform"))
    assert found["whisper-large-v3"]["surfaces"] == ["/audio/transcriptions", "/audio/translations"]
    creator = models_of(media, media.key(app, "platform"))
    assert creator["tts-1"]["pricing"] == {"asset": "USD", "characters": "15"}
    key = media.key(app, models=["tts-1"])
    assert models_of(media, key).keys() == {"tts-1"}
    one = HTTP.get(media.url + "/v1/models/tts-1", headers={"authorization": f"Bearer {key}"}).json()
    assert one["pricing"] == {"asset": "USD", "characters": "22.5"}


def test_the_frames_of_scripted_speech_are_as_long_as_they_say() -> None:
    assert MP3_FRAMES_A_SECOND * 24 <= 1000
