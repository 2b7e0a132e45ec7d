"""What an endpoint is: TGI by `/info`, vLLM by `/v1/models` and `/version`, SGLang by `/model_info`.

A server that comes up is waited for. What waiting does not change is refused at once: a refused key, a
redirect, a page that is none of theirs.
"""

from __future__ import annotations

import asyncio
import logging
import time

from tgi_stack.backends.servers.backend import status_line
from tgi_stack.backends.servers.endpoints import Endpoint
from tgi_stack.backends.servers.protocols import sglang, tgi, vllm
from tgi_stack.backends.servers.protocols.numbers import ReplyError
from tgi_stack.backends.servers.protocols.reply import ForeignReplyError, Served
from tgi_stack.backends.servers.transport import Reply, Transport, TransportError
from tgi_stack.errors import AbsentServerError, MachineError, NoEngineError, WrongServerError

LOG = logging.getLogger(__name__)

DESCRIBE_S = 10.0
DEFAULT_PATIENCE_S = 1.0  # for servers that nobody named
UNKNOWN_HOST_S = 5.0  # a name may come up with its container
EVERY_S = 0.5
PASSING = (408, 425, 429)  # beside 5xx: what a server says that comes up, or has too much to do


async def find(transport: Transport, url: str, engine: str, wanted: str | None, patience_s: float) -> Served:
    """The model that is wanted of an endpoint, or its only one.

    Raises:
        NoEngineError: see `_answering`.
        WrongServerError: it does not hold that model, or several and none was named.
    """
    models = await _answering(transport, url, patience_s)
    if engine not in ("auto", models[0].dialect):
        raise WrongServerError(f"{url} is {models[0].dialect}, not {engine}")
    named = [model for model in models if wanted is None or model.goes_by(wanted)]
    named = [model for model in named if model.fault is None] or named
    if len(named) > 1:  # a model rather than its adapters, a name rather than a root
        named = [model for model in named if model.parent is None] or named
        named = [model for model in named if model.model == wanted] or named
    names = ", ".join(model.model for model in models)
    if not named:
        raise WrongServerError(f"{url} does not hold {wanted}; it has {names}")
    if len(named) > 1:
        raise WrongServerError(f"{url} holds several models; give one with --model: {names}")
    if named[0].fault is not None:
        raise WrongServerError(f"{url}, model {named[0].model}: {named[0].fault}")
    return named[0]


async def _answering(transport: Transport, url: str, patience_s: float) -> list[Served]:
    """What an endpoint says it is, once it answers.

    Raises:
        NoEngineError: it does not in time, or another program answers there.
        WrongServerError: what it says, or what keeps it from answering, will not pass by waiting.
    """
    began, told = time.monotonic(), False
    while True:
        try:
            return await describe(transport, url)
        except (TransportError, ReplyError) as error:
            spent = time.monotonic() - began
            _refuse_hopeless(url, error, spent, patience_s)
            if not told and patience_s > DEFAULT_PATIENCE_S:
                LOG.info(f"waiting up to {patience_s:.0f} s for {url} ({error}{_about_tls(url, error)})")
                told = True
            await asyncio.sleep(EVERY_S)


def _refuse_hopeless(url: str, error: TransportError | ReplyError, spent: float, patience_s: float) -> None:
    """Raises what ends the waiting, where something does."""
    kind = error.kind if isinstance(error, TransportError) else ""
    if kind == "unsafe":
        raise WrongServerError(f"{url}: {error}") from error
    if kind == "handles":
        raise MachineError(f"{url}: {error}; raise the limit: ulimit -n 1024") from error
    if isinstance(error, TransportError) and error.lasting:
        raise _foreign(url, str(error)) from error
    if spent >= (min(patience_s, UNKNOWN_HOST_S) if kind == "nowhere" else patience_s):
        waited = f"did not answer in {spent:.0f} s" if spent >= 1.0 else "does not answer"
        why = f"{url} {waited} ({error}{_about_tls(url, error)})"
        raise AbsentServerError(
            why, "start servers with: make up; or compute in process: --engine torch"
        ) from error


def _about_tls(url: str, error: TransportError | ReplyError) -> str:
    """Why a server that hangs up may never answer: many do so in place of an alert, asyncio's among them."""
    if not isinstance(error, TransportError) or error.kind != "silent":
        return ""
    if url.startswith("http:"):
        return "; if it speaks TLS, give https://"
    return "; if it wants a certificate, or another one, see --client-cert"


async def describe(transport: Transport, url: str) -> list[Served]:
    """What an endpoint says it is.

    Raises:
        WrongServerError: a refused key, a redirect, a model that takes no prompts.
        NoEngineError: another program answers there.
        TransportError, ReplyError: no answer yet.
    """
    info = await _page(transport, url, "/info")
    if info.status == 200 and tgi.is_info(info.body):
        try:
            return tgi.described(info.body)
        except ReplyError as error:
            raise WrongServerError(f"{url}/info: {error}") from error
    models = await _page(transport, url, "/v1/models")
    if models.status != 200:
        raise _foreign(url, status_line(models))
    version = await _page(transport, url, "/version")
    if version.status != 200:
        return await _sglang(transport, url, models.body, version)
    try:
        return vllm.described(models.body, version.body)
    except ReplyError as error:
        raise _foreign(url, str(error)) from error


async def _sglang(transport: Transport, url: str, models: bytes, version: Reply) -> list[Served]:
    """What an SGLang says it is, of whatever lists models and has no `/version`; see `describe`."""
    told = await _either(transport, url, "/model_info", "/get_model_info")
    if told.status != 200 or not sglang.is_model_info(told.body):
        raise _foreign(url, f"/version: {status_line(version)}")
    started = await _either(transport, url, "/server_info", "/get_server_info")
    try:
        return sglang.described(models, told.body, started.body if started.status == 200 else None)
    except ReplyError as error:
        raise WrongServerError(f"{url}: {error}") from error


async def _either(transport: Transport, url: str, path: str, before: str) -> Reply:
    """A page by its name, or by the one that older releases have."""
    page = await _page(transport, url, path)
    return page if page.status == 200 else await _page(transport, url, before)


async def refuse_other_weights(transport: Transport, endpoint: Endpoint) -> None:
    """Looks again at what can change while a server runs.

    Raises:
        WrongServerError: its weights were swapped.
        TransportError, ReplyError: it does not answer.
    """
    before = endpoint.served.weights
    if before is None:
        return
    page = await _either(transport, endpoint.url, "/model_info", "/get_model_info")
    if page.status != 200 or not sglang.is_model_info(page.body):
        page.discard()
        kind = ForeignReplyError if page.status == 200 else ReplyError  # another request's answer
        raise kind(f"/model_info: {status_line(page)}")
    now = sglang.weights_of(page.body)
    if now != before:
        raise WrongServerError(sglang.weights_changed(before, now))


async def _page(transport: Transport, url: str, path: str) -> Reply:
    """What stands there.

    Raises:
        WrongServerError: a refused key, a redirect.
        ReplyError: nothing yet.
    """
    reply = await transport.get(f"{url}{path}", DESCRIBE_S)
    if reply.status in (401, 403, 407, 511) or 300 <= reply.status < 400:
        raise WrongServerError(f"{url}: {status_line(reply)}")
    if reply.status in PASSING or (reply.status >= 500 and reply.status != 501):
        raise ReplyError(f"{path}: {status_line(reply)}")
    return reply


def _foreign(url: str, told: str) -> NoEngineError:
    where = "is it the server's own address, without a path?"
    return NoEngineError(f"{url}: neither TGI nor vLLM nor SGLang answers there ({told}); {where}")
