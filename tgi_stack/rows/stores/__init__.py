"""Inputs and outputs in object stores, by URL."""
