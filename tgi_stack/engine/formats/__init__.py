"""Networks whose weights are not those of a folder of safetensors."""
