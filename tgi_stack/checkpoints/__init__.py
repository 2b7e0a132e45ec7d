"""What --model may name beside a folder of safetensors: an adapter, and a GGUF file."""
