"""`/v1/images/generations` and `/v1/images/edits`.

Models are sold by the image, at a price that may depend on quality and size (`Request.variant`, such as "hd/1024x1792"),
or by the token, as OpenAI's gpt-image models are. Of those the most is held that a picture of the quality and size takes,
and what is billed is what the answer tells: text and images read, images made.
"""

import re
from abc import abstractmethod
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from gateway.core import limits
from gateway.core.errors import InvalidRequest, PaymentRequired
from gateway.core.units import Usage
from gateway.metering.usage import image_tokens_max
from gateway.providers.model import Deployment, Reply
from gateway.proxy import forms, wire
from gateway.proxy.media import ESTIMATED, NO_FLAGS, MediaSurface, count, tokens_told
from gateway.proxy.surface import Measured, Request, Stream
from gateway.proxy.told_errors import check_answered
from gateway.proxy.typed import TypedEvents

# Output tokens of one picture at most, up to `_PIXELS` large: the dearest of gpt-image-1 and its kin (OpenAI's guide to image
# generation, "Cost and latency": 408, 1,584 and 6,240) and gpt-image-2 (its calculator: 1,767 medium and 7,024 high).
_TOKENS: Final = {"low": 408, "standard": 1_792, "medium": 1_792, "high": 7_040, "hd": 7_040, "auto": 7_040}
_PIXELS: Final = 1_572_864  # 1024 x 1536
_LARGER: Final = 5, 2  # what larger ones take more, at most: the calculator says 12,329 for 3584 x 2048, high
_PARTIAL_TOKENS: Final = 100  # each
_PARTIAL_MAX: Final = 3
# Who makes pictures where no model is named (OpenAI's client, `image_generate_params` and `image_edit_params`): dall-e-2
# generates, unless something is asked for that only the GPT image models have; they edit.
_GENERATES: Final = "dall-e-2"
_GENERATES_MORE: Final = "gpt-image-1"
_EDITS: Final = "gpt-image-1.5"
_MORE_FIELDS: Final = ("background", "moderation", "output_compression", "output_format", "partial_images", "stream")
_MORE: Final = {"quality": ("low", "medium", "high"), "size": ("1024x1536", "1536x1024")}
_SIZE: Final = re.compile(r"(\d{2,5})x(\d{2,5})")
_COMPLETED: Final = frozenset(("image_generation.completed", "image_edit.completed"))


class _Kept(msgspec.Struct, frozen=True):
    image_tokens: int  # of output, the most of one picture
    files: tuple[forms.File, ...] = ()


class _Answer(msgspec.Struct):
    data: list[msgspec.Raw]
    usage: Any = None
    error: Any = None


_decode_answer: Final = msgspec.json.Decoder(_Answer, float_hook=wire.read_float).decode


class ImageSurface(MediaSurface):
    """What making and editing have in common."""

    bytes_max = limits.BODY_BYTES_MAX

    def text_bytes(self, body: dict[str, Any]) -> int:
        """The prompt's; models frame it in a few tokens of their own."""
        return len(body["prompt"].encode()) + 64

    def bound(self, request: Request, deployment: Deployment) -> int:
        """See `Surface`; PaymentRequired where images of other qualities and sizes have a price, and this one has none."""
        bound = super().bound(request, deployment)
        cost = self._cost_of(deployment.id)
        if cost is not None and cost.images and cost.variants and all(name != request.variant for name, _ in cost.variants):
            text = f"{deployment.model} has no price here for an image of {request.variant}"
            raise PaymentRequired(text, code="unpriced_model", param="size")
        return bound

    def stream(self, request: Request, reply: Reply) -> Stream:
        """Partial pictures, then the last one with the usage."""
        return TypedEvents(_COMPLETED, limits.IMAGE_EVENT_BYTES_MAX)

    def told(self, body: bytes) -> Any:
        """The usage, and how many pictures there are."""
        answer = _decode_answer(body)
        if answer.error:
            check_answered(body)
        return {"usage": answer.usage, "made": len(answer.data)}

    def read(self, told: Any, request: Request, deployment: Deployment) -> Measured:
        """Pictures by the piece, and tokens: those told, or where the provider's price needs them the most there can be.

        A stream of which something was delivered, or which its client left, has made a picture at its provider, whether or not
        its last event came: it is billed as it was held.
        """
        made = told["made"]
        if not made and told.get("begun"):
            held = dict(request.units)
            usage = Usage(images=1)
            if self.sold_by(deployment, "image_output"):
                usage = replace(usage, image_output=held["image_output"], image_input=held["image_input"])
            return usage, ESTIMATED
        tokens = tokens_told(told["usage"])
        if tokens is not None:
            details = told["usage"].get("output_tokens_details")
            text = min(tokens.output, count(details.get("text_tokens"))) if type(details) is dict else 0
            return replace(tokens, output=text, image_output=tokens.output - text, images=made), NO_FLAGS
        if not self.sold_by(deployment, "image_output"):
            return Usage(images=made), NO_FLAGS
        kept = request.kept
        read = len(kept.files) * image_tokens_max(deployment.model)
        estimated = Usage(image_input=read, image_output=made * kept.image_tokens, images=made)
        return estimated, ESTIMATED

    @abstractmethod
    def default(self, body: dict[str, Any]) -> str:
        """The model where a body names none."""

    def asked(self, body: dict[str, Any], size: int, number: int, partial: int, streamed: bool, files: Any = ()) -> Request:
        """The request for so many pictures; InvalidRequest."""
        quality, dimensions = body.get("quality") or "auto", body.get("size") or "auto"
        if quality not in _TOKENS:
            raise InvalidRequest(f"quality must be one of {', '.join(_TOKENS)}", param="quality")
        if dimensions != "auto" and (type(dimensions) is not str or not _SIZE.fullmatch(dimensions)):
            raise InvalidRequest('size must be auto, or a width and a height such as "1024x1536"', param="size")
        if streamed and number > 1:
            raise InvalidRequest("a streamed request makes one image: leave n out", param="n")
        each = _TOKENS[quality]
        width, _, height = dimensions.partition("x")
        if height and int(width) * int(height) > _PIXELS:
            each = each * _LARGER[0] // _LARGER[1]
        each += partial * _PARTIAL_TOKENS
        read = len(files) * image_tokens_max(None)
        units = (("images", number), ("image_output", number * each), ("image_input", read))
        return Request(
            self, body, size, self.model_or(self.default(body), body), streamed, False, None, 1, False, units,
            _variant(quality, dimensions), forms.CONTENT_TYPE if files else (), _Kept(each, tuple(files)),
        )  # fmt: skip


class Generations(ImageSurface):
    """`/v1/images/generations`."""

    path = "/images/generations"

    def parse(self, raw: bytes, content_type: bytes) -> Request:
        """See `Surface`."""
        body = wire.read_body(raw, content_type)
        _check_prompt(body)
        streamed = body.get("stream") or False
        if type(streamed) is not bool:
            raise InvalidRequest("stream must be true or false", param="stream")
        number = wire.whole(body, "n", 1, limits.IMAGES_MAX, 1)
        partial = wire.whole(body, "partial_images", 0, _PARTIAL_MAX, 0)
        if "image" in body or "mask" in body:
            raise InvalidRequest("image has no meaning on this endpoint: see /v1/images/edits", param="image")
        return self.asked(body, len(raw), number, partial, streamed)


    def default(self, body: dict[str, Any]) -> str:
        """See `ImageSurface`."""
        more = any(body.get(name) not in (None, False) for name in _MORE_FIELDS)
        more = more or any(body.get(name) in values for name, values in _MORE.items())
        return _GENERATES_MORE if more else _GENERATES


class Edits(ImageSurface):
    """`/v1/images/edits`: a form with the pictures to change."""

    path = "/images/edits"
    bytes_max = limits.FORM_BYTES_MAX

    def parse(self, raw: bytes, content_type: bytes) -> Request:
        """See `Surface`."""
        form = forms.read_form(raw, content_type, ("image", "image[]", "mask"))
        pictures = [file for file in form.files if file.field != "mask"]
        if not pictures:
            raise InvalidRequest("image is missing: send the picture to change as a file", param="image")
        if len(pictures) > limits.IMAGE_FILES_MAX or len(form.files) - len(pictures) > 1:
            raise InvalidRequest(f"an edit takes at most {limits.IMAGE_FILES_MAX} images and one mask", param="image")
        _check_prompt(form.fields)
        number = forms.whole_in(form.fields, "n", 1, limits.IMAGES_MAX, 1)
        partial = forms.whole_in(form.fields, "partial_images", 0, _PARTIAL_MAX, 0)
        streamed = forms.flag_in(form.fields, "stream")
        return self.asked(form.fields, len(raw), number, partial, streamed, form.files)

    def default(self, body: dict[str, Any]) -> str:
        """See `ImageSurface`."""
        return _EDITS

    def outgoing(self, request: Request, deployment: Deployment, cap: int | None) -> bytes:
        """The form once more."""
        return forms.write_form({**request.body, "model": deployment.model}, request.kept.files)


def _check_prompt(body: dict[str, Any]) -> None:
    if type(body.get("prompt")) is not str or not body["prompt"]:
        raise InvalidRequest("prompt must be a string, and not empty", param="prompt")


def _variant(quality: str, size: str) -> str:
    """The name of a price: what is not said is what OpenAI's dall-e models take."""
    return f"{'standard' if quality == 'auto' else quality}/{'1024x1024' if size == 'auto' else size}"
