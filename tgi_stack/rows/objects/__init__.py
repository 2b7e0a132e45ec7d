"""Inputs that are objects of Python."""
