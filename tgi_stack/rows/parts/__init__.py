"""Outputs that are folders: rows in blocks, and the part that each block becomes."""
