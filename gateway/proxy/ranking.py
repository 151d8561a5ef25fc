"""`/v1/moderations` and `/v1/rerank`.

Moderation is free at OpenAI, which is a price that is known; elsewhere it is sold by the token. Reranking is sold by the
search (Cohere: one for each started hundred documents, of which long ones count as several; `meta.billed_units` tells) or
by the token (Jina, Voyage: `usage.total_tokens`).
"""

from typing import Any, Final

import msgspec

from gateway.core import limits
from gateway.core.errors import InvalidRequest
from gateway.core.units import Usage
from gateway.metering.counting import Times
from gateway.metering.usage import image_tokens_max
from gateway.providers.model import Deployment, Reply
from gateway.proxy import wire
from gateway.proxy.media import ESTIMATED, NO_FLAGS, MediaSurface, count
from gateway.proxy.surface import Measured, Request, Stream
from gateway.proxy.told_errors import check_answered
from gateway.proxy.typed import Bytes

_MODERATES: Final = "omni-moderation-latest"  # OpenAI's default (its API reference: create moderation, `model`)
_DOCUMENTS_A_SEARCH: Final = 100
# Cohere's pricing page: documents of more than 500 tokens, with the query, are split, and each part counts. A token is a byte
# at least, so no document has more parts than this makes of its bytes.
_TOKENS_A_PART: Final = 500
_QUERY_TOKENS_MAX: Final = 250  # the query takes of each part no more than half


class _Moderated(msgspec.Struct):
    results: list[msgspec.Raw]
    usage: Any = None
    error: Any = None


class _Ranked(msgspec.Struct):
    results: list[msgspec.Raw]
    usage: Any = None
    meta: Any = None
    error: Any = None


_decode_moderated: Final = msgspec.json.Decoder(_Moderated, float_hook=wire.read_float).decode
_decode_ranked: Final = msgspec.json.Decoder(_Ranked, float_hook=wire.read_float).decode


class _Whole(MediaSurface):
    """Answers that nobody streams: whatever comes is read as one."""

    def streams(self, request: Request, reply: Reply) -> bool:
        """Never."""
        return False

    def stream(self, request: Request, reply: Reply) -> Stream:
        """As bytes, for who would ask all the same."""
        return Bytes(reply.content_type, "")


class Moderations(_Whole):
    """`/v1/moderations`."""

    path = "/moderations"
    bytes_max = limits.BODY_BYTES_MAX

    def parse(self, raw: bytes, content_type: bytes) -> Request:
        """See `Surface`."""
        body = wire.read_body(raw, content_type)
        model = self.model_or(_MODERATES, body)
        _texts_of(body)
        return Request(self, body, len(raw), model, False, False, None, 1, False, completed=self.completed)

    def text_bytes(self, body: dict[str, Any]) -> int:
        """Of the texts, and what pictures take."""
        given = body["input"]
        pictures = sum(type(each) is dict and each.get("type") != "text" for each in given) if type(given) is list else 0
        return len(_texts_of(body).encode()) + pictures * image_tokens_max(None)

    def prompt(self, body: dict[str, Any]) -> tuple[dict[str, Any], str]:
        """The texts; what is no text counts by its bytes."""
        return {"prompt": body["input"]}, "prompt"

    def told(self, body: bytes) -> Any:
        """Its usage, where it has one."""
        answer = _decode_moderated(body)
        if answer.error:
            check_answered(body)
        return {"usage": answer.usage}

    def read(self, told: Any, request: Request, deployment: Deployment) -> Measured | None:
        """As told; counted where the provider bills it and does not tell."""
        tokens = _total(told["usage"])
        if not tokens and self.sold_by(deployment, "input"):
            return None
        return Usage(input=tokens), NO_FLAGS

    def counted(self, told: Any, request: Request, deployment: Deployment, counted: Usage) -> Measured:
        """Our count of the texts."""
        return Usage(input=counted.input), ESTIMATED


class Rerank(_Whole):
    """`/v1/rerank`, in the shape of Cohere and Jina: `{model, query, documents, top_n}`."""

    path = "/rerank"
    bytes_max = limits.BODY_BYTES_MAX

    def parse(self, raw: bytes, content_type: bytes) -> Request:
        """See `Surface`."""
        body = wire.read_body(raw, content_type)
        model = wire.read_model(body)
        query, documents = body.get("query"), body.get("documents")
        if type(query) is not str or not query:
            raise InvalidRequest("query must be a string, and not empty", param="query")
        if type(documents) is not list or not 0 < len(documents) <= limits.RANKED_DOCUMENTS_MAX:
            raise InvalidRequest(f"documents must be a list of 1 to {limits.RANKED_DOCUMENTS_MAX}", param="documents")
        wire.whole(body, "top_n", 1, limits.RANKED_DOCUMENTS_MAX, 1)
        texts = [_document(place, each) for place, each in enumerate(documents)]
        room = _TOKENS_A_PART - min(len(query.encode()), _QUERY_TOKENS_MAX)
        parts = sum(-(-max(1, len(text.encode())) // room) for text in texts)
        searches = -(-parts // _DOCUMENTS_A_SEARCH)
        units = (("searches", searches),)
        return Request(self, body, len(raw), model, False, False, None, 1, False, units, completed=self.completed)

    def text_bytes(self, body: dict[str, Any]) -> int:
        """The query is read with each document."""
        query = len(body["query"].encode()) + 8
        texts = [_document(place, each) for place, each in enumerate(body["documents"])]
        return sum(len(text.encode()) + query for text in texts)

    def prompt(self, body: dict[str, Any]) -> tuple[dict[str, Any], str]:
        """Each document, and as often the query, which is not written out: a long one before many is more than any memory."""
        texts = [_document(0, each) for each in body["documents"]]
        return {"prompt": [Times(body["query"], len(texts)), "\n".join(texts)]}, "prompt"

    def told(self, body: bytes) -> Any:
        """Its usage, by either name."""
        answer = _decode_ranked(body)
        if answer.error:
            check_answered(body)
        return {"usage": answer.usage, "meta": answer.meta}

    def read(self, told: Any, request: Request, deployment: Deployment) -> Measured | None:
        """Searches and tokens as told; what the provider bills and did not tell is estimated, tokens by our count."""
        (usage, flags), is_told = self._told(told, request, deployment)
        if not is_told and self.sold_by(deployment, "input"):
            return None
        return usage, flags

    def counted(self, told: Any, request: Request, deployment: Deployment, counted: Usage) -> Measured:
        """Our count of the query with each document."""
        (usage, _), _ = self._told(told, request, deployment)
        return Usage(input=counted.input, searches=usage.searches), ESTIMATED

    def _told(self, told: Any, request: Request, deployment: Deployment) -> tuple[Measured, bool]:
        meta = told["meta"] if type(told["meta"]) is dict else {}
        billed = meta.get("billed_units")
        billed = billed if type(billed) is dict else {}
        tokens = _total(told["usage"]) or count(billed.get("total_tokens")) or count(billed.get("input_tokens"))
        searches = count(billed.get("search_units"))
        if not searches and type(told["usage"]) is dict:
            searches = count(told["usage"].get("search_units"))
        flags: tuple[str, ...] = NO_FLAGS
        if not searches and self.sold_by(deployment, "searches"):
            searches, flags = dict(request.units)["searches"], ESTIMATED
        return (Usage(input=tokens, searches=searches), flags), tokens > 0


def _total(usage: Any) -> int:
    if type(usage) is not dict:
        return 0
    return count(usage.get("total_tokens")) or count(usage.get("prompt_tokens")) or count(usage.get("input_tokens"))


def _document(place: int, document: Any) -> str:
    """The text of one document: a string, or an object whose fields are all read."""
    if type(document) is str:
        return document
    if type(document) is dict and document:
        if "image" in document:
            raise InvalidRequest("a picture has no price here", param=f"documents[{place}]")
        return wire.encode_json(document).decode()
    raise InvalidRequest("a document is a string, or an object with text", param=f"documents[{place}]")


def _texts_of(body: dict[str, Any]) -> str:
    """All texts of what is to be moderated; InvalidRequest."""
    given = body.get("input")
    if type(given) is str and given:
        return given
    if type(given) is not list or not 0 < len(given) <= limits.MESSAGES_MAX:
        raise InvalidRequest("input must be a string or a list, and not empty", param="input")
    texts = []
    for place, each in enumerate(given):
        if type(each) is dict and type(each.get("type")) is str:
            texts.append(str(each.get("text") or ""))
        elif type(each) is str:
            texts.append(each)
        else:
            raise InvalidRequest("an item is a string, or an object with a type", param=f"input[{place}]")
    return "\n".join(texts)
