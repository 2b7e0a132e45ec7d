"""Image files in, upright sRGB JPEGs on the model's own grid out."""
