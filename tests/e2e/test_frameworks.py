"""LangChain's and LlamaIndex's own OpenAI classes against the gateway: `make test-integrations` installs them."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gateways import Served, gateway

from .conftest import Deployment

TEXTS = [f"text {number}" + " and more" * (number % 7) for number in range(150)]

# Each in a process of its own, as its users have it: their caches and warnings stay there.
_HEAD = "import asyncio, json, sys\nurl, texts = json.loads(sys.argv[1])\n"
_LANGCHAIN = """
from langchain_openai import OpenAIEmbeddings
model = OpenAIEmbeddings(model="tiny", base_url=url, api_key="none", check_embedding_ctx_length=False)
many, later = model.embed_documents(texts), asyncio.run(model.aembed_documents(texts))
print(json.dumps([many, later, [model.embed_query(text) for text in texts[:5]]]))
"""
_LANGCHAIN_BY_DEFAULT = """
import tiktoken
class Bytes:
    def encode_ordinary(self, text):
        return list(text.encode())
    encode = encode_ordinary
# The vocabularies of OpenAI's models are on the network; any numbers will do here.
tiktoken.encoding_for_model = tiktoken.get_encoding = lambda _: Bytes()
from langchain_openai import OpenAIEmbeddings
try:
    OpenAIEmbeddings(model="tiny", base_url=url, api_key="none").embed_documents(texts)
except Exception as error:
    print(json.dumps(str(error)))
"""
_LLAMA_INDEX = """
from llama_index.embeddings.openai import OpenAIEmbedding
model = OpenAIEmbedding(model_name="tiny", api_base=url, api_key="none")
many, later = model.get_text_embedding_batch(texts), asyncio.run(model.aget_text_embedding_batch(texts))
print(json.dumps([many, later, [model.get_query_embedding(text) for text in texts[:5]]]))
"""


@pytest.fixture(scope="module")
def served(deployed: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with gateway(tmp_path_factory.mktemp("gateway"), deployed.address, deployed.policy) as running:
        yield running


def said(script: str, served: Served, folder: Path, *, needs: str) -> Any:
    if importlib.util.find_spec(needs) is None:
        pytest.skip(f"{needs} is not installed: make test-integrations")
    command = [sys.executable, "-c", _HEAD + script, json.dumps([f"{served.url}/v1", TEXTS])]
    environment = os.environ | {"LLAMA_INDEX_CACHE_DIR": str(folder), "LANGSMITH_TRACING": "false"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(("script", "needs"), [(_LANGCHAIN, "langchain_openai"), (_LLAMA_INDEX, "llama_index")])
def test_a_framework_gets_the_models_vectors(
    served: Served, deployed: Deployment, tmp_path: Path, script: str, needs: str
) -> None:
    expected = deployed.encoder.encode(TEXTS)
    many, later, single = said(script, served, tmp_path, needs=needs)
    for vectors in (many, later):
        np.testing.assert_allclose(vectors, expected, atol=1e-5)
    np.testing.assert_allclose(single, expected[:5], atol=1e-5)


def test_langchain_by_default_sends_token_ids_and_is_told_what_to_change(served: Served, tmp_path: Path) -> None:
    error = said(_LANGCHAIN_BY_DEFAULT, served, tmp_path, needs="langchain_openai")
    assert "check_embedding_ctx_length=False" in error
