"""Pictures of figures, by matplotlib: readable on light and on dark paper."""
