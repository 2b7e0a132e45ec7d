"""Rows prepared on all cores: processes that read, render, encode and look up, and who computes for them."""
