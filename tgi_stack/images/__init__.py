"""Image files in, upright sRGB JPEGs on the model's own grid out."""

from importlib.util import find_spec

# Raised where the same file would be sent as other pixels: part of what answers depend on.
VERSION = f"4 {'pillow' if find_spec('pic_scale') is None else 'pic-scale'}"
