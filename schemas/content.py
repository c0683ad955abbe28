"""What a request may hold besides text: content blocks in LangChain's standard form (v1).

Inline data is in base64, and is looked at when a request is read: providers refuse data that is not
what it is said to be, with errors that name no field. A URL is only ever text here.
"""

from __future__ import annotations

import binascii
import json
import re
from collections.abc import Mapping
from hashlib import blake2b
from typing import Annotated, Any, Final, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from millstream.schemas.base import Frozen

__all__ = [
    "BLOCKS_MAX",
    "INPUT_KINDS",
    "URL_CHARS_MAX",
    "AudioContent",
    "Content",
    "ContentBlock",
    "FileContent",
    "ImageContent",
    "InputKind",
    "TextContent",
    "block_of",
    "digest_of",
    "inline_bytes",
    "is_type_of_text",
    "label_of",
    "type_of",
]

BLOCKS_MAX: Final = 100
URL_CHARS_MAX: Final = 4_096

InputKind = Literal["image", "image_url", "pdf", "file", "file_url", "audio"]
"""What a model may take beside text. `file` is one that is neither a PDF nor text."""

INPUT_KINDS: Final[frozenset[InputKind]] = frozenset(get_args(InputKind))

_PDF: Final = "application/pdf"
_TEXTS: Final = frozenset({"application/json", "application/xml", "application/yaml"})

_KILO: Final = 1_000

_STARTS: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"RIFF....WEBP", "image/webp"),
    (b"%PDF", "application/pdf"),
    (b"RIFF....WAVE", "audio/wav"),
    (b"ID3", "audio/mpeg"),
)
"""What data of a type begins with; a dot is any byte."""

_HEAD_CHARS: Final = 32
"""As many characters of base64 as the longest beginning takes, and a multiple of 4."""


def _is_web_address(url: str) -> str:
    if url.startswith("data:"):
        message = "data does not go into a URL: give it as `base64`, with its `mime_type`"
        raise ValueError(message)
    try:
        parts = urlsplit(url)
        is_one = parts.scheme in {"http", "https"} and bool(parts.hostname)
    except ValueError:
        is_one = False
    if not is_one or not url.isprintable() or " " in url:
        message = "it must be an address that begins with http:// or https://"
        raise ValueError(message)
    return url


def _is_base64(data: str) -> str:
    if data.startswith("data:"):
        message = "give the data alone, without `data:…;base64,` before it"
        raise ValueError(message)
    try:
        binascii.a2b_base64(data, strict_mode=True)
    except (binascii.Error, ValueError) as error:
        message = "it is not base64 (RFC 4648: letters, digits, + and /, padded, in one line)"
        raise ValueError(message) from error
    return data


Url = Annotated[str, StringConstraints(max_length=URL_CHARS_MAX), AfterValidator(_is_web_address)]
Base64 = Annotated[str, StringConstraints(min_length=4), AfterValidator(_is_base64)]


def _is_type(mime_type: str) -> str:
    if re.fullmatch(_TYPE, mime_type) is None:
        message = "it must be a type alone, in small letters: `text/plain`, without `; charset=…`"
        raise ValueError(message)
    return mime_type


def _says_something(text: str) -> str:
    # Providers refuse a blank text among blocks.
    if not text.strip():
        message = "a text among blocks must not be blank"
        raise ValueError(message)
    return text


_TYPE: Final = r"^[a-z]+/[a-z0-9][a-z0-9.+_-]*$"

MimeType = Annotated[
    str,
    StringConstraints(max_length=127),
    AfterValidator(_is_type),
    WithJsonSchema({"maxLength": 127, "pattern": _TYPE, "type": "string"}),
]


class TextContent(Frozen):
    """A piece of text."""

    type: Literal["text"]
    text: Annotated[
        str,
        AfterValidator(_says_something),
        WithJsonSchema({"pattern": r"\S", "type": "string"}),
    ]

    @property
    def label(self) -> str:
        """The text itself."""
        return self.text


class _Media(Frozen):
    type: str
    url: Url | None = None
    base64: Base64 | None = None
    mime_type: MimeType | None = None

    @model_validator(mode="after")
    def _is_what_it_says(self) -> Self:
        if (self.url is None) == (self.base64 is None):
            message = "give its `url` or its `base64`, one of the two"
            raise ValueError(message)
        if self.base64 is None:
            return self
        if self.mime_type is None:
            message = "data in `base64` needs its `mime_type`"
            raise ValueError(message)
        found = type_of(self.base64)
        if found is not None and found != self.mime_type and _is_told_apart(self.mime_type):
            message = f"the data is {found}, and the `mime_type` says {self.mime_type}"
            raise ValueError(message)
        if is_type_of_text(self.mime_type) and _text_of(self.base64) is None:
            message = "the text is not in UTF-8: write it so, or give it a type of its own"
            raise ValueError(message)
        return self

    @property
    def size_bytes(self) -> int:
        """How large the inline data is, decoded; 0 for a URL."""
        if self.base64 is None:
            return 0
        return len(self.base64) // 4 * 3 - self.base64[-2:].count("=")

    @property
    def label(self) -> str:
        """What people are shown: `[image/png, 12 kB]`, or where it is, without a URL's query."""
        if self.url is not None:
            parts = urlsplit(self.url)
            return f"[{self.type} at {parts.hostname}{parts.path}]"
        return f"[{self.mime_type}, {_size_text(self.size_bytes)}]"


class ImageContent(_Media):
    """An image: by its URL, or inline."""

    type: Literal["image"]

    @property
    def needs(self) -> InputKind:
        """What a model must take to be told it."""
        return "image" if self.url is None else "image_url"

    mime_type: Literal["image/png", "image/jpeg", "image/gif", "image/webp"] | None = None


class FileExtras(Frozen):
    """What LangChain's standard keeps beside a file."""

    filename: Annotated[str, StringConstraints(min_length=1, max_length=255)] | None = None


class FileContent(_Media):
    """A file, a PDF for instance: by its URL, or inline. Its name is `extras.filename`."""

    type: Literal["file"]
    extras: FileExtras | None = None

    @property
    def filename(self) -> str | None:
        """Its name, if it was given one."""
        return None if self.extras is None else self.extras.filename

    @property
    def needs(self) -> InputKind | None:
        """What a model must take to be told it, `None` for text, which all do."""
        if self.url is not None:
            return "file_url"
        if self.mime_type == _PDF:
            return "pdf"
        return "file" if self.text is None else None

    @property
    def text(self) -> str | None:
        """What stands in an inline text file, `None` of any other."""
        if self.base64 is None or not is_type_of_text(self.mime_type or ""):
            return None
        return _text_of(self.base64)


class AudioContent(_Media):
    """A recording, inline."""

    type: Literal["audio"]
    url: None = None
    base64: Base64
    mime_type: Literal["audio/wav", "audio/mp3", "audio/mpeg"]

    @property
    def needs(self) -> InputKind:
        """What a model must take to be told it."""
        return "audio"


def _without_mapping(schema: dict[str, Any]) -> None:
    # OpenAPI has it, AsyncAPI 3 and JSON Schema do not: each block's `type` is a constant.
    schema.pop("discriminator", None)


ContentBlock = Annotated[
    TextContent | ImageContent | FileContent | AudioContent,
    Field(discriminator="type", json_schema_extra=_without_mapping),
]

_BLOCK: Final[TypeAdapter[ContentBlock]] = TypeAdapter(ContentBlock)


def _has_some(blocks: tuple[ContentBlock, ...]) -> tuple[ContentBlock, ...]:
    # After the blocks: a bound of the field counts only those that can be read.
    if not blocks:
        message = "give at least one block, or leave `content` out"
        raise ValueError(message)
    return blocks


Content = Annotated[
    tuple[ContentBlock, ...],
    Field(max_length=BLOCKS_MAX, json_schema_extra={"minItems": 1}),
    AfterValidator(_has_some),
]
"""Up to 100 blocks, in the order in which the model is told them."""


def digest_of(asked: str, content: tuple[ContentBlock, ...] | None) -> str:
    """Give the digest of what is asked, in 16 hex digits; without content, as of earlier versions.

    Of each block count the fields that are known here, those given.
    """
    if content is None:
        return blake2b(asked.encode(), digest_size=8).hexdigest()
    told = [block.model_dump(exclude_none=True) for block in content]
    asked_with = blake2b(json.dumps(told).encode()).digest() + asked.encode()
    # By another `person` no input reads as one with content.
    return blake2b(asked_with, digest_size=8, person=b"content").hexdigest()


def inline_bytes(content: tuple[ContentBlock, ...]) -> int:
    """Give the bytes of text and inline data as they stand in the request: base64 as base64."""
    return sum(
        len(block.text.encode()) if isinstance(block, TextContent) else len(block.base64 or "")
        for block in content
    )


def block_of(block: Any) -> ContentBlock | None:
    """Give a block as it stands in a message, `None` of one that no request may hold."""
    try:
        return _BLOCK.validate_python(block)
    except ValidationError:
        return None


def label_of(block: Mapping[str, Any]) -> str:
    """Give the label of a block as it stands in a message: `[image/png, 12 kB]`."""
    known = block_of(block)
    return f"[{block.get('type')}]" if known is None else known.label


def type_of(data: str) -> str | None:
    """Give the type that data in base64 begins as, `None` where its beginning tells none."""
    head = binascii.a2b_base64(data[:_HEAD_CHARS])
    for start, mime_type in _STARTS:
        if len(head) >= len(start) and all(
            expected in (found, 0x2E) for found, expected in zip(head, start, strict=False)
        ):
            return mime_type
    return None


def is_type_of_text(mime_type: str) -> bool:
    """Tell whether files of a type are text, which every model is told."""
    return mime_type.startswith("text/") or mime_type in _TEXTS


def _text_of(data: str) -> str | None:
    try:
        # What Windows begins such files with is no text.
        return binascii.a2b_base64(data).decode("utf-8-sig")
    except UnicodeDecodeError:
        return None


def _is_told_apart(mime_type: str) -> bool:
    # A name that has no beginning here, of a format within another for instance, may be right.
    return mime_type in {known for _, known in _STARTS} and mime_type != "audio/mpeg"


def _size_text(size_bytes: int) -> str:
    if size_bytes < _KILO:
        return f"{size_bytes} B"
    if size_bytes < _KILO**2:
        return f"{round(size_bytes / _KILO)} kB"
    return f"{size_bytes / _KILO**2:.1f} MB"
