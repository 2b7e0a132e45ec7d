"""From logarithms to probabilities, rankings and their measures."""
