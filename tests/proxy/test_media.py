"""What the surfaces of pictures and moderations read of a body."""

from typing import Any

import msgspec
import pytest

from gateway.core.errors import InvalidRequest
from gateway.proxy.images import Edits, Generations
from gateway.proxy.ranking import Moderations, Rerank

EVERY = {"omni-moderation-latest", "dall-e-2", "gpt-image-1", "gpt-image-1.5"}
FORM = b"multipart/form-data; boundary=b"
EDIT = (
    b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nx\r\n'
    b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\npng\r\n--b--\r\n'
)


def parse(surface: type[Any], body: dict[str, Any], served: set[str]) -> Any:
    read = surface(lambda _: None, served.__contains__)
    return read.parse(EDIT, FORM) if surface is Edits else read.parse(msgspec.json.encode(body), b"application/json")


@pytest.mark.parametrize(
    ("surface", "body", "model"),
    [
        (Moderations, {"input": "x"}, "omni-moderation-latest"),
        (Moderations, {"input": "x", "model": None}, "omni-moderation-latest"),
        (Generations, {"prompt": "x"}, "dall-e-2"),
        (Generations, {"prompt": "x", "quality": "standard", "stream": False}, "dall-e-2"),
        (Generations, {"prompt": "x", "background": "transparent"}, "gpt-image-1"),
        (Generations, {"prompt": "x", "quality": "high"}, "gpt-image-1"),
        (Edits, {}, "gpt-image-1.5"),
    ],
)
def test_where_no_model_is_named_openais_default_is_taken_if_it_is_served_here(
    surface: type[Any], body: dict[str, Any], model: str
) -> None:
    request = parse(surface, body, EVERY)
    assert (request.model, request.body["model"]) == (model, model)
    with pytest.raises(InvalidRequest, match="model is missing") as refused:
        parse(surface, body, EVERY - {model})
    assert refused.value.param == "model"


def test_a_model_that_is_named_is_never_replaced_and_what_has_no_default_needs_one() -> None:
    assert parse(Moderations, {"input": "x", "model": "mine"}, EVERY).model == "mine"
    with pytest.raises(InvalidRequest, match="model must be a string"):
        parse(Moderations, {"input": "x", "model": ""}, EVERY)
    with pytest.raises(InvalidRequest, match="model is missing"):
        parse(Rerank, {"query": "x", "documents": ["y"]}, EVERY)
