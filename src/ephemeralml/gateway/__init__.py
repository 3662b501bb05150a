"""The data owner's side, for programs that speak HTTP: OpenAI's and TEI's embeddings over a verified client."""
