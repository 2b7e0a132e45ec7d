"""What --model may name beside a whole checkpoint: an adapter, and a GGUF file."""
