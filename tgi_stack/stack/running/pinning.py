"""Which commit of a model and which digest of an image: asked once, then kept in pins.json."""

from __future__ import annotations

import logging

from huggingface_hub import HfApi

from tgi_stack.checkpoints.hub_answers import NO_ANSWER, reason
from tgi_stack.errors import MachineError
from tgi_stack.stack.files.docker_folder import DockerFolder
from tgi_stack.stack.files.rendering import OTHER_IMAGES, Pins
from tgi_stack.stack.planning import plan
from tgi_stack.stack.planning.request import Request
from tgi_stack.stack.running import docker

LOG = logging.getLogger(__name__)


def completed(folder: DockerFolder, request: Request) -> Pins:
    """The pins with a commit for each model that is asked for; the hub is asked where there is none yet."""
    pins = folder.pins()
    new = {name: commit(name) for name in request.own_models.values() if name not in pins.models}
    return Pins(pins.models | new, pins.images)


def renewed(folder: DockerFolder, request: Request) -> Pins:
    """The pins as of now: the newest commits of the models, and the digests behind the images' tags."""
    pins = folder.pins()
    models = {name: commit(name) for name in request.own_models.values()}
    servers = [one.image for one in plan.wanted(request, request.max_total_tokens).values()]
    images = {}
    for name in (*servers, *OTHER_IMAGES.values()):
        images[name] = docker.digest(name)
        LOG.info(f"{name}: {images[name]}")
    return Pins(pins.models | models, pins.images | images)


def commit(name: str) -> str:
    """A model's newest commit on the hub.

    Raises:
        MachineError: the hub does not tell.
    """
    try:
        found = HfApi(token=False).model_info(name, timeout=15).sha
    except NO_ANSWER as error:
        raise MachineError(
            f"the hub does not tell the commit of {name} ({reason(error)}); see that this host "
            "reaches it, or add the commit to docker/pins.json"
        ) from error
    if not found:
        raise MachineError(f"the hub tells no commit of {name}; add it to docker/pins.json")
    LOG.info(f"{name} is pinned at {found}")
    return found
