"""`/v1/audio/speech`, `/v1/audio/transcriptions` and `/v1/audio/translations`.

Speech is sold by the character of its text (tts-1) or by the second of what is made, with its text by the token
(gpt-4o-mini-tts); transcripts by the second of what was heard (whisper) or by the token (gpt-4o-transcribe). Seconds are
those that the provider tells, else those that the audio itself shows (`metering.heard`, `metering.audio`); a started one
counts.
"""

import re
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from gateway.core import limits
from gateway.core.errors import InvalidRequest
from gateway.core.units import Usage
from gateway.metering.audio import started_seconds
from gateway.metering.heard import seconds_at_most, seconds_of
from gateway.providers.model import Deployment, Reply, UpstreamFault
from gateway.proxy import forms, wire
from gateway.proxy.media import ESTIMATED, NO_FLAGS, MediaSurface, count, tokens_told
from gateway.proxy.surface import Measured, Request, Stream
from gateway.proxy.told_errors import check_answered
from gateway.proxy.typed import Bytes, TypedEvents

# What is held of speech: slow speakers take a quarter of a second for a character of an alphabet, and for one of Chinese or
# Japanese half a second; a character of UTF-8 with three bytes is of those. `speed` may make it four times as long.
_SECONDS_A_CHARACTER: Final = 0.25
_SECONDS_A_WIDE_CHARACTER: Final = 0.5
_SECONDS_BESIDES: Final = 5  # pauses before and after
_SPEED_LEAST, _SPEED_MOST = 0.25, 4.0
# OpenAI's guide to audio tokens: one for each 100 ms heard, one for each 50 ms made. Others take up to 50 a second.
_HEARD_A_SECOND: Final = 10
_MADE_A_SECOND: Final = 20
_TOKENS_A_SECOND_MOST: Final = 50
_WRITTEN_A_SECOND_MOST: Final = 25  # tokens of a transcript: the quickest speakers say ten syllables a second
_SPEECH_FORMS: Final = ("mp3", "opus", "aac", "flac", "wav", "pcm")
_SPEECH_DONE: Final = frozenset(("speech.audio.done",))
_TRANSCRIPT_DONE: Final = frozenset(("transcript.text.done",))
_TEXT_FORMS: Final = ("text", "srt", "vtt")
_TRANSCRIPT_FORMS: Final = ("json", "verbose_json", "diarized_json", *_TEXT_FORMS)
_CAPTION_END: Final = re.compile(rb"--> ?(?:(\d+):)?(\d{1,2}):(\d{1,2})[.,](\d{1,3})")
_PROMPT_BYTES_BESIDES: Final = 64


class _Spoken(msgspec.Struct, frozen=True):
    characters: int
    form: str
    seconds_most: int


class Speech(MediaSurface):
    """`/v1/audio/speech`: an answer of bytes, or of events with `stream_format: "sse"`."""

    path = "/audio/speech"
    bytes_max = limits.BODY_BYTES_MAX

    def parse(self, raw: bytes, content_type: bytes) -> Request:
        """See `Surface`."""
        body = wire.read_body(raw, content_type)
        model = wire.read_model(body)
        text = body.get("input")
        if type(text) is not str or not 0 < len(text) <= limits.SPEECH_CHARS_MAX:
            raise InvalidRequest(f"input must be a text of 1 to {limits.SPEECH_CHARS_MAX} characters", param="input")
        form = body.get("response_format") or "mp3"
        if form not in _SPEECH_FORMS:
            raise InvalidRequest(f"response_format must be one of {', '.join(_SPEECH_FORMS)}", param="response_format")
        if body.get("stream_format") not in (None, "audio", "sse"):
            raise InvalidRequest("stream_format must be audio or sse", param="stream_format")
        speed = body.get("speed")
        if speed is None:
            speed = 1.0
        if type(speed) not in (int, float) or not _SPEED_LEAST <= speed <= _SPEED_MOST:
            raise InvalidRequest(f"speed must be a number from {_SPEED_LEAST} to {_SPEED_MOST}", param="speed")
        if body.get("instructions") is not None and type(body["instructions"]) is not str:
            raise InvalidRequest("instructions must be a text", param="instructions")
        wide = sum(character >= "\u0800" for character in text)
        spoken = (len(text) - wide) * _SECONDS_A_CHARACTER + wide * _SECONDS_A_WIDE_CHARACTER
        most = int((spoken + _SECONDS_BESIDES) / speed) + 1
        units = (("characters", len(text)), ("seconds", most), ("audio_output", most * _TOKENS_A_SECOND_MOST))
        kept = _Spoken(len(text), form, most)
        events = body.get("stream_format") == "sse"
        return Request(
            self, body, len(raw), model, events, False, None, 1, False, units, kept=kept, completed=self.completed
        )  # fmt: skip

    def text_bytes(self, body: dict[str, Any]) -> int:
        """Of what is said, and how."""
        return len(body["input"].encode()) + len((body.get("instructions") or "").encode()) + _PROMPT_BYTES_BESIDES

    def prompt(self, body: dict[str, Any]) -> tuple[dict[str, Any], str]:
        """Both texts."""
        return {"prompt": body["input"] + (body.get("instructions") or "")}, "prompt"

    def streams(self, request: Request, reply: Reply) -> bool:
        """Always: it plays while it is made."""
        return True

    def stream(self, request: Request, reply: Reply) -> Stream:
        """Events where they were asked for, else bytes."""
        if super().streams(request, reply):
            return TypedEvents(_SPEECH_DONE, limits.SSE_FRAME_BYTES_MAX, request.kept.form)
        if b"json" in reply.content_type:
            raise UpstreamFault("its answer is no audio", sent=True)
        return Bytes(reply.content_type, request.kept.form)

    def told(self, body: bytes) -> Any:
        """Nothing: it never comes whole."""
        return None

    def read(self, told: Any, request: Request, deployment: Deployment) -> Measured | None:
        """Its characters; the seconds that play; tokens where told, or where the provider's price needs them."""
        if tokens_told(told["usage"]) is None and self.sold_by(deployment, "input"):
            return None
        return self._spoken(told, request, deployment)

    def counted(self, told: Any, request: Request, deployment: Deployment, counted: Usage) -> Measured:
        """With our count of what it read."""
        usage, flags = self._spoken(told, request, deployment)
        return replace(usage, input=counted.input), flags

    def _spoken(self, told: Any, request: Request, deployment: Deployment) -> Measured:
        kept = request.kept
        tokens = tokens_told(told["usage"])
        flags: tuple[str, ...] = NO_FLAGS
        seconds = started_seconds(told["nanos"])
        if seconds is None and tokens is not None:
            seconds = -(-tokens.output // _MADE_A_SECOND)
        elif seconds is None and (self.sold_by(deployment, "seconds") or self.sold_by(deployment, "audio_output")):
            seconds, flags = kept.seconds_most, ESTIMATED
        usage = Usage(characters=kept.characters, seconds=seconds or 0)
        if tokens is not None:
            return replace(usage, input=tokens.input, audio_output=tokens.output), flags
        if self.sold_by(deployment, "audio_output"):
            usage, flags = replace(usage, audio_output=(seconds or 0) * _MADE_A_SECOND), ESTIMATED
        return usage, flags


class _Heard(msgspec.Struct, frozen=True):
    form: str
    seconds: int | None  # as the file shows, None where it does not
    seconds_most: int
    files: tuple[forms.File, ...]


class Transcriptions(MediaSurface):
    """`/v1/audio/transcriptions`: a form with a file."""

    path = "/audio/transcriptions"
    bytes_max = limits.FORM_BYTES_MAX

    def parse(self, raw: bytes, content_type: bytes) -> Request:
        """See `Surface`."""
        form = forms.read_form(raw, content_type, ("file",))
        model = wire.read_model(form.fields)
        if len(form.files) != 1:
            raise InvalidRequest("file must be one file of audio", param="file")
        answer = form.fields.get("response_format") or "json"
        if answer not in _TRANSCRIPT_FORMS:
            raise InvalidRequest(f"response_format must be one of {', '.join(_TRANSCRIPT_FORMS)}", param="response_format")
        seconds = seconds_of(form.files[0].content)
        if seconds is None and answer == "text":
            text = "how long the file is does not show, and an answer of text does not tell it: ask for json"
            raise InvalidRequest(text, param="response_format")
        most = seconds if seconds is not None else seconds_at_most(form.files[0].content)
        units = (
            ("seconds", most), ("audio_input", most * _TOKENS_A_SECOND_MOST), ("output", (most + 10) * _WRITTEN_A_SECOND_MOST),
        )  # fmt: skip
        kept = _Heard(answer, seconds, most, form.files)
        streamed = forms.flag_in(form.fields, "stream")
        return Request(
            self, form.fields, len(raw), model, streamed, False, None, 1, False, units, headers=forms.CONTENT_TYPE, kept=kept,
            completed=self.completed,
        )  # fmt: skip

    def text_bytes(self, body: dict[str, Any]) -> int:
        """The prompt's, and what else it says in words."""
        return sum(len(str(value).encode()) for value in body.values()) + _PROMPT_BYTES_BESIDES

    def outgoing(self, request: Request, deployment: Deployment, cap: int | None) -> bytes:
        """The form once more."""
        return forms.write_form({**request.body, "model": deployment.model}, request.kept.files)

    def stream(self, request: Request, reply: Reply) -> Stream:
        """The text piece by piece, then all of it with the usage."""
        return TypedEvents(_TRANSCRIPT_DONE, limits.SSE_FRAME_BYTES_MAX)

    def told(self, body: bytes) -> Any:
        """What stands in the JSON, or the text itself."""
        try:
            answer = wire.decode_json(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            answer = None
        if type(answer) is dict:
            if answer.get("error"):
                check_answered(body)
            text = answer.get("text")
            return {"usage": answer.get("usage"), "duration": answer.get("duration"), "text": text if type(text) is str else ""}
        return {"usage": None, "text": body.decode("utf-8", "replace"), "plain": body}

    def text(self, body: bytes) -> str:
        """What was understood, for where its tokens are not told."""
        text: str = self.told(body)["text"]
        return text

    def read(self, told: Any, request: Request, deployment: Deployment) -> Measured | None:
        """Seconds as told, else as the file shows; tokens where told, or where the provider's price needs them."""
        found = self._heard(told, request)
        if tokens_told(told["usage"]) is None and self.sold_by(deployment, "audio_input"):
            return None
        return found

    def counted(self, told: Any, request: Request, deployment: Deployment, counted: Usage) -> Measured:
        """By the second that was heard, and our count of what was written."""
        (usage, _) = self._heard(told, request)
        return replace(usage, audio_input=usage.seconds * _HEARD_A_SECOND, output=counted.output), ESTIMATED

    def _heard(self, told: Any, request: Request) -> Measured:
        kept, plain = request.kept, told.get("plain")
        if plain is not None and kept.form not in _TEXT_FORMS:
            raise UpstreamFault("its answer is not JSON", sent=True)
        usage = told["usage"]
        tokens = tokens_told(usage)
        seconds = count(usage.get("seconds")) if type(usage) is dict else 0
        seconds = seconds or count(told.get("duration")) or kept.seconds or 0
        flags: tuple[str, ...] = NO_FLAGS
        if plain is not None and kept.form != "text":
            seconds = max(seconds, _last_caption(plain))
        if not seconds:
            seconds = kept.seconds_most
            flags = ESTIMATED if tokens is None else NO_FLAGS
        if tokens is not None:
            return replace(tokens, seconds=seconds), flags
        return Usage(seconds=seconds), flags


class Translations(Transcriptions):
    """`/v1/audio/translations`: the same, into English; it does not stream."""

    path = "/audio/translations"


def _last_caption(body: bytes) -> int:
    """When the last caption ends, in started seconds."""
    last = 0
    for hours, minutes, seconds, rest in _CAPTION_END.findall(body):
        last = max(last, int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds) + bool(rest.strip(b"0")))
    return min(last, 1_000_000)
