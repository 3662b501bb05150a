"""EphemeralML: confidential embeddings inside an attested enclave, each answer with a signed receipt."""
