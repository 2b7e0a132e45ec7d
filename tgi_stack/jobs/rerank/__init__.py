"""`rerank`: items, prompts, and the ways to a ranking."""
