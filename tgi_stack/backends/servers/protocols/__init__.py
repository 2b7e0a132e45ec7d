"""What TGI and vLLM are asked and answer, as pure functions: no sockets, no clocks."""
