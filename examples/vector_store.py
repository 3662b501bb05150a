"""A client in the two shapes that vector stores ask for: LangChain's `Embeddings`, Chroma's `EmbeddingFunction`.

    export EPHEMERALML_RELAY=tcp://127.0.0.1:7001 EPHEMERALML_POLICY=policy.json
    python examples/vector_store.py

Neither framework is imported: both take whatever has these methods. Texts are sealed to the verified enclave; the store
that gets the vectors is trusted with them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ephemeralml import Client


class Embeddings:
    """For LangChain: ``InMemoryVectorStore(Embeddings(client))``, ``Chroma(embedding_function=Embeddings(client))``."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def embed_documents(self, texts: Sequence[str]) -> list[list[float]]:
        """The vectors of documents."""
        vectors: list[list[float]] = self._client.encode(texts).tolist()
        return vectors

    def embed_query(self, text: str) -> list[float]:
        """The vector of a query."""
        vector: list[float] = self._client.encode(text).tolist()
        return vector


class EmbeddingFunction:
    """For Chroma: ``client.create_collection("texts", embedding_function=EmbeddingFunction(client))``."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def __call__(self, input: Sequence[str]) -> list[NDArray[np.float32]]:  # noqa: A002 - Chroma's name for it
        """The vectors of documents and queries alike."""
        return self._client.encode(input, convert_to_numpy=False)


def main() -> None:
    """Find the nearest of three sentences."""
    documents = [
        "The patient reports chest pain after climbing stairs.",
        "Quarterly revenue rose by eight percent.",
        "The suspect entered the building at midnight.",
    ]
    with Client.from_env() as client:
        print(client.verdict.summary)
        embeddings = Embeddings(client)
        vectors = np.array(embeddings.embed_documents(documents))
        query = np.array(embeddings.embed_query("pressure behind the breastbone"))
    print(documents[int((vectors @ query).argmax())])


if __name__ == "__main__":
    main()
