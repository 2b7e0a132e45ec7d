"""What is asked in words: prompts, token ids, labels."""
