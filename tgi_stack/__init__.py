"""fastqwen: semantic summaries with Qwen3-VL and rankings read from Qwen3's next-token distribution."""

__version__ = "0.1.0"
