"""Containers: brought up, waited for, looked at."""
