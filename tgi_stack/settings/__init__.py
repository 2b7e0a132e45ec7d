"""What a run was asked to do: each setting declared once, and where its value came from."""

from tgi_stack.declared.servers import DEFAULT_ENDPOINTS, DEFAULT_MODELS
from tgi_stack.settings.loading import FILE, PREFIX, Given, given, load
from tgi_stack.settings.model import Settings
from tgi_stack.settings.written import bytes_of

__all__ = [
    "DEFAULT_ENDPOINTS",
    "DEFAULT_MODELS",
    "FILE",
    "PREFIX",
    "Given",
    "Settings",
    "bytes_of",
    "given",
    "load",
]
