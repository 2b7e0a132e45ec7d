"""The checkpoints that ship: `text` (Qwen3) and `vision` (Qwen3-VL)."""

from __future__ import annotations

from pathlib import Path

TINY = Path(__file__).resolve().parent
