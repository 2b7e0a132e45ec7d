"""Computes in this process. Only the engine, `backends/torch` and `bench` import torch and transformers."""
