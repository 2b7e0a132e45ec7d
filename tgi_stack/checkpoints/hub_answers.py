"""What the hub's client raises where the hub does not answer, or something else answers in its place."""

from __future__ import annotations

from typing import cast

from huggingface_hub.errors import HfHubHTTPError

# Its own error is made from that of the HTTP client under it, another one in each major version. Newer
# versions let that client's errors through as they are.
_UNANSWERED = (*cast(tuple[type[Exception], ...], HfHubHTTPError.__bases__), OSError)
# A page that is not the hub's, such as a login that stands in the way, is found out while it is read.
NO_ANSWER: tuple[type[Exception], ...] = (*_UNANSWERED, ValueError, KeyError, AttributeError, TypeError)


def reason(error: Exception) -> str:
    """Why there is no answer, in a line."""
    kind = type(error).__name__
    said = str(error).splitlines()[0] if str(error) else kind
    return said if isinstance(error, _UNANSWERED) else f"what answers is no hub: {kind}, {said}"
