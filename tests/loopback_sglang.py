"""What the server on loopback says and answers as SGLang 0.5.23 does, from its sources; none was run."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tgi_stack.prompting import prompts
from tgi_stack.tiny import TINY

if TYPE_CHECKING:
    from tests.loopback import Loopback

# Added tokens are refused as labels of /v1/score: they are beyond the tokenizer's own vocabulary.
VOCABULARY_SIZE = len(json.loads((TINY / "vision" / "tokenizer.json").read_text())["model"]["vocab"])
OPEN = ("/health", "/ready", "/metrics")  # without a key


def described(server: Loopback, path: str) -> dict[str, Any] | None:
    """A page, or None where there is none."""
    if path == "/v1/models":
        card = {
            "id": server.model,
            "object": "model",
            "created": 1,
            "owned_by": "sglang",
            "root": server.model,
            "parent": None,
            "max_model_len": 4096,
        }
        return {"object": "list", "data": [card]}
    if path == "/model_info":
        return {
            "model_path": server.root or server.model,
            "served_model_name": server.model,
            "tokenizer_path": server.root or server.model,
            "is_generation": True,
            "preferred_sampling_params": None,
            "weight_version": server.weights,
            "load_format": "auto",
            "has_image_understanding": True,
            "model_type": "qwen3_vl",
            "architectures": ["Qwen3VLForConditionalGeneration"],
        }
    if path == "/server_info":
        return {
            "model_path": server.root or server.model,
            "revision": None,
            "dtype": "auto",
            "quantization": None,
            "context_length": None,
            "enable_mis": False,
            "enable_fp32_lm_head": False,
            "enable_deterministic_inference": False,
            "max_total_num_tokens": 100_000,
            "max_req_input_len": 4090,
            "version": "0.5.23",
        } | server.started
    return {} if path in OPEN else None


def answer(server: Loopback, path: str, asked: dict[str, Any]) -> dict[str, Any]:
    """The answer to a POST."""
    if path == "/v1/score" and server.scores_items:
        return _score(server, asked)
    if path == "/generate":
        return _generate(server, asked)
    if path == "/v1/chat/completions":
        told = {"metadata": {"weight_version": server.weights}}
        return server._chat(asked, asked["rid"]) | told
    raise server.refusal(404, {"detail": "Not Found"})


def _score(server: Loopback, asked: dict[str, Any]) -> dict[str, Any]:
    items, labels = asked["items"], asked["label_token_ids"]
    if labels and not isinstance(labels[0], list):
        labels = [labels] * len(items)
    for one in labels:
        beyond = [label for label in one if label >= VOCABULARY_SIZE]
        if beyond:
            message = f"Token ID {beyond[0]} is out of vocabulary (vocab size: {VOCABULARY_SIZE})"
            raise server.refusal(400, _flat(message))
        if len(set(one)) != len(one) or not one:
            raise server.refusal(400, _flat("label_token_ids must not contain duplicate tokens"))
    read = [server._logprobs(ids, b"", one) for ids, one in zip(items, labels, strict=True)]
    tokens = sum(map(len, items)) + server.tokens_more
    tokens += len(items) + 1 if server.started.get("enable_mis") else 0  # what stands between them
    usage = {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0}
    return {
        "scores": [[0.1 for _ in one] for one in labels],
        "pooled_hidden_states": None,
        "token_logprobs": read if asked.get("return_token_logprobs") else None,
        "model": asked["model"] if server.echoes else server.model,
        "usage": usage,
        "object": "scoring",
    }


def _flat(message: str) -> dict[str, Any]:
    return {"object": "error", "message": message, "type": "BadRequestError", "param": None, "code": 400}


def _generate(server: Loopback, asked: dict[str, Any]) -> dict[str, Any]:
    images = [base64.b64decode(uri.partition("base64,")[2]) for uri in asked.get("image_data") or ()]
    ids = asked.get("input_ids")
    if ids is None:
        ids = server._encoded(_seen(server, asked["text"], images))
    labels = asked.get("token_ids_logprob") or []
    read = server._logprobs(ids, b"".join(images), labels) if labels else []
    most = asked["sampling_params"]["max_new_tokens"]
    meta: dict[str, Any] = {
        "id": asked["rid"],
        "finish_reason": {"type": "length", "length": most},
        "prompt_tokens": len(ids) + server.tokens_more,
        "completion_tokens": most,
        "weight_version": server.weights,
    }
    if labels:
        pairs = zip(read, labels, strict=True)
        meta["output_token_ids_logprobs"] = [[[value, label, None] for value, label in pairs]]
    return {"text": "A" if most else "", "output_ids": [32][:most], "meta_info": meta}


def _seen(server: Loopback, text: str, images: Sequence[bytes]) -> str:
    """The prompt that the model is given: each image's mark as often as it has tokens."""
    parts = text.split(prompts.IMAGE_PAD)
    if len(parts) != len(images) + 1:
        message = f"{len(parts) - 1} marks of images, and {len(images)} images"
        raise server.refusal(400, {"error": {"message": message}})
    made = parts[0]
    for image, part in zip(images, parts[1:], strict=True):
        made += prompts.IMAGE_PAD * server._visual(image) + part
    return made
