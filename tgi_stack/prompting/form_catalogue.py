"""The form that is built in: what a shop's catalogue says of an item."""

from __future__ import annotations

from typing import Any

CATALOGUE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "category": {"type": "string", "minLength": 1, "maxLength": 40},
        "purpose": {
            "type": "string",
            "description": "what the item is for",
            "minLength": 1,
            "maxLength": 120,
        },
        "scenarios": {
            "type": "array",
            "description": "when and where it is used",
            "items": {"type": "string", "minLength": 1, "maxLength": 60},
            "minItems": 1,
            "maxItems": 4,
        },
        "intents": {
            "type": "array",
            "description": "what a shopper who looks for it wants",
            "items": {"type": "string", "minLength": 1, "maxLength": 60},
            "minItems": 1,
            "maxItems": 4,
        },
    },
    "required": ["category", "purpose", "scenarios", "intents"],
}
