"""The six metrics, on bare metal and in an enclave, with the same code on both sides."""
