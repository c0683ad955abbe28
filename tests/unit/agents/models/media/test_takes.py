from __future__ import annotations

import base64
from typing import Any

import pytest
from langchain_core.language_models.chat_models import _format_for_tracing
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import HumanMessage
from langchain_openai.data._profiles import _PROFILES
from pydantic import TypeAdapter

from millstream.agents.models.media.takes import check_takes, profile_of_openai, takes_of
from millstream.agents.models.media.tokens import IMAGE_TOKENS_MAX, media_tokens, tokens_max
from millstream.agents.models.resolve import resolve_model
from millstream.schemas.content import INPUT_KINDS, Content
from millstream.schemas.endpoints import ModelEndpoint
from millstream.schemas.runs.errors import ContentUnsupported

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(100)).decode()
PDF = base64.b64encode(b"%PDF-1.7 " + bytes(9_991)).decode()
IMAGE = {"type": "image", "base64": PNG, "mime_type": "image/png"}
IMAGE_URL = {"type": "image", "url": "http://169.254.169.254/a.png"}
FILE = {"type": "file", "base64": PDF, "mime_type": "application/pdf"}
NOTES = {"type": "file", "base64": "bm90ZXM=", "mime_type": "text/markdown"}
ZIP = {"type": "file", "base64": "UEsDBA==", "mime_type": "application/zip"}
AUDIO = {"type": "audio", "base64": "//uQAA==", "mime_type": "audio/mpeg"}

ENDPOINT = ModelEndpoint(base_url="http://127.0.0.1:9/v1", inputs=frozenset({"image", "image_url"}))


def content(*blocks: dict[str, Any]) -> Any:
    return TypeAdapter(Content).validate_python(blocks)


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("scripted", INPUT_KINDS),
        ("local", ()),
        ("openai:gpt-5-mini", ("image", "image_url", "pdf")),
        ("openai:gpt-3.5-turbo", ()),
        ("langchain:openai:gpt-4o", ("image", "image_url", "pdf")),
        # LangChain's profile says of this one that it takes images by URL, and no images.
        ("langchain:openai:o3-mini", ("pdf",)),
        ("anthropic:claude-opus-4-5", ("image", "image_url", "pdf", "file_url")),
        # Its client would fetch the image from here.
        ("google_genai:gemini-2.5-flash", ("image", "pdf", "audio")),
        ("ollama:llama3.2", ()),
        ("seeing:llava", ("image", "image_url")),
        ("plain:llava", ()),
    ],
)
def test_what_a_model_takes_is_known_before_it_is_called(
    name: str, taken: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GOOGLE_API_KEY"):
        monkeypatch.setenv(variable, "key")
    plain = ENDPOINT.model_copy(update={"inputs": frozenset()})
    model = resolve_model(name, endpoints={"seeing": ENDPOINT, "plain": plain})
    assert takes_of(model) == set(taken)


def test_an_apps_own_model_takes_what_its_profile_says() -> None:
    model = GenericFakeChatModel(messages=iter(()), profile={"image_inputs": True})
    assert takes_of(model) == {"image"}
    assert takes_of(GenericFakeChatModel(messages=iter(()))) == set()


def test_no_openai_model_is_taken_to_see_that_langchain_knows_to_be_blind() -> None:
    blind = [name for name, known in _PROFILES.items() if not known.get("image_inputs")]
    assert "gpt-3.5-turbo" in blind
    assert [name for name in blind if profile_of_openai(name)] == []
    for name in ("gpt-4o-mini", "gpt-4.1", "gpt-5", "o4-mini"):
        assert _PROFILES[name]["image_inputs"]
        assert profile_of_openai(name)["image_inputs"]


@pytest.mark.parametrize(
    ("taken", "blocks", "told"),
    [
        ((), [IMAGE], "'m' takes no images, as far as is known; name a model that does"),
        ((), [IMAGE, FILE, IMAGE], "takes no images and PDF files,"),
        (("image",), [IMAGE_URL], "takes no images by URL, as far as is known; give the data"),
        (("image", "pdf"), [ZIP], "takes no files of this type"),
        (("image",), [AUDIO], "takes no recordings"),
    ],
)
def test_content_that_a_model_does_not_take_is_refused_by_name(
    taken: tuple[Any, ...], blocks: list[dict[str, Any]], told: str
) -> None:
    with pytest.raises(ContentUnsupported, match=told):
        check_takes("m", frozenset(taken), content(*blocks))


def test_every_model_takes_text_and_files_of_text() -> None:
    check_takes("m", frozenset(), content({"type": "text", "text": "hi"}, NOTES))


def test_an_image_counts_what_it_is_drawn_as_and_not_its_base64() -> None:
    # diegosouzapw/OmniRoute#8368, google-gemini/gemini-cli#17923.
    large = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(1_900_000)).decode()
    small, big, address = content(IMAGE, {**IMAGE, "base64": large}, IMAGE_URL)
    assert {tokens_max(one) for one in (small, big, address)} == {IMAGE_TOKENS_MAX}
    text, pdf, notes = content({"type": "text", "text": "héé"}, FILE, NOTES)
    assert [tokens_max(one) for one in (text, pdf, notes)] == [5, 11 * 3_000, 5]
    far, audio = content({"type": "file", "url": "https://a.org/a.pdf"}, AUDIO)
    assert [tokens_max(one) for one in (far, audio)] == [300_000, 1]


def test_a_block_counts_the_same_as_langchain_tells_callbacks_of_it() -> None:
    told = _format_for_tracing([HumanMessage(["hi", IMAGE, FILE, AUDIO, NOTES])])[0].content
    assert told[1] != IMAGE
    assert told[2] != FILE
    assert [media_tokens(one) for one in told] == [0, IMAGE_TOKENS_MAX, 33_000, 1, 5]
    assert media_tokens({"type": "text", "text": "x"}) == media_tokens({"type": "thinking"}) == 0
