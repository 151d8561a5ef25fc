"""What a request consumed, in disjoint buckets that can each be priced on their own.

Providers report overlapping numbers (OpenAI counts cached tokens inside the prompt, Anthropic
beside it; reasoning is inside the output). A provider mapping takes them apart once; after that
`amount = ceil(sum(bucket * rate) / 1,000,000)` holds with no bucket counted twice.

Some models are not billed by the token: images by the piece, audio by the second, speech by the character
of its text, ranking by the search. Tools that run at the provider have a fee besides the tokens: a search of the web or of
files, a container's session by its gigabytes of memory. A count of those is no token, and in no token total.
"""

from typing import Final

import msgspec

TOKEN_KINDS: Final = (
    "input",
    "cached_input",
    "cache_write",
    "cache_write_1h",
    "output",
    "reasoning",
    "audio_input",
    "audio_output",
    "image_input",
    "image_output",
)
UNIT_KINDS: Final = ("images", "seconds", "characters", "searches")
# Beside the tokens, never instead of them. OpenAI has two tools that search the web, at prices of their own; every gigabyte of a
# container's memory costs the same there.
TOOL_KINDS: Final = ("web_searches", "web_searches_preview", "file_searches", "container_gb")
KINDS: Final = (*TOKEN_KINDS, *UNIT_KINDS, *TOOL_KINDS)


class Usage(msgspec.Struct, frozen=True, omit_defaults=True):
    """Counts of one request, in the order of `KINDS`; every bucket is disjoint from the others and never negative."""

    input: int = 0
    cached_input: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    output: int = 0
    reasoning: int = 0
    audio_input: int = 0
    audio_output: int = 0
    image_input: int = 0
    image_output: int = 0
    images: int = 0
    seconds: int = 0
    characters: int = 0
    searches: int = 0
    web_searches: int = 0
    web_searches_preview: int = 0
    file_searches: int = 0
    container_gb: int = 0

    @property
    def input_total(self) -> int:
        """Every token the model read, cached or not."""
        return self.input + self.cached_input + self.cache_write + self.cache_write_1h + self.audio_input + self.image_input

    @property
    def output_total(self) -> int:
        """Every token the model wrote, shown or not."""
        return self.output + self.reasoning + self.audio_output + self.image_output

    @property
    def total(self) -> int:
        """`tokens_used` of the usage event."""
        return self.input_total + self.output_total
