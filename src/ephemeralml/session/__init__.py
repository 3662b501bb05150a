"""The sealed session between client and enclave: handshake, keys, records, messages, transports."""
