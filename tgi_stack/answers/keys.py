"""What keys are made of: everything that can change an answer, and nothing else.

Never a path, a row's number, a URL, how much was asked at once, or the time.
"""

from __future__ import annotations

from dataclasses import asdict

from cache.keys import Part
from tgi_stack import images
from tgi_stack.images.grid import Grid
from tgi_stack.prompting import prompts
from tgi_stack.settings import Settings
from tgi_stack.types import Identity


def recipe(grid: Grid, settings: Settings) -> dict[str, Part]:
    """What a prepared image depends on besides the file's bytes."""
    return {
        "image_version": images.VERSION,
        "factor": grid.factor,
        "min_pixels": grid.min_pixels,
        "max_pixels": grid.max_pixels,
        "max_side": settings.max_side,
        "allow_truncated": settings.allow_truncated,
    }


def of_identity(identity: Identity) -> dict[str, Part]:
    """Who answers, and what writes the prompts."""
    known = {f"identity_{name}": value for name, value in asdict(identity).items()}
    return known | {"prompt_version": prompts.VERSION}
