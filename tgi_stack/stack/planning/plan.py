"""Places servers on GPUs: how much each needs, how much it gets, and what would fit where it does not.

Pure: from a request and what nvidia-smi told to a plan. What a server needs is its weights (counted), the
working memory of a prefill and a fixed part (estimates, on the safe side), and keys and values for two
requests of full length. What is left on a GPU is shared among the servers on it, up to a limit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from tgi_stack.errors import MachineError, UsageError
from tgi_stack.stack.planning import engines, sizes
from tgi_stack.stack.planning.adopted import Adopted, named
from tgi_stack.stack.planning.engines import Engine, Launch
from tgi_stack.stack.planning.gpus import Gpu, GpuSurvey
from tgi_stack.stack.planning.request import SHARDS, Request
from tgi_stack.stack.planning.sizes import MODELS, Model

MIB = 2**20
FIXED_MIB = {"tgi": 2048, "vllm": 2560, "sglang": 2560}  # CUDA context, workspaces of the kernels, graphs
VISION_MIB = 1024  # the encoder at work on the largest picture
KEPT_FREE_MIB = 1024  # drivers, engines and nvidia-smi count a few hundred MiB differently
LEAST_REQUESTS = 2  # of full length, whose keys and values have to fit
USABLE_KV = 0.9  # of what TGI gives to keys and values
# TGI counts a token for each 196 pixels, four times what the model reads; of the largest picture we send.
PICTURE_COUNTED_MORE = 3 * (2**20 // 784)
ENOUGH_TOKENS = 262_144  # of keys and values; more brings little, and others may want the GPU
PREFILL_TOKENS = (16_384, 8_192)  # the larger batch where it fits


@dataclass(frozen=True, slots=True)
class Wanted:
    """A kind of server, before it is placed."""

    kind: str
    engine: Engine
    image: str
    model: Model
    name: str
    quantization: str
    launch: Launch
    prefill: int

    def tokens(self, request: Request) -> int:
        """The longest prompt with its answer, as this server counts."""
        counts_more = self.kind == "vision" and self.engine == engines.TGI
        return request.max_total_tokens + (PICTURE_COUNTED_MORE if counts_more else 0)

    def need_mib(self, request: Request) -> int:
        """The least memory of each of its GPUs."""
        shards = request.num_shard
        work = 2 * self.prefill * (2 * self.model.intermediate + 4 * self.model.hidden)
        parts = self.model.weight_bytes(self.launch.weight_bits) + self._kv(
            LEAST_REQUESTS * self.tokens(request)
        )
        fixed = FIXED_MIB[self.engine.name] + (VISION_MIB if self.kind == "vision" else 0)
        return fixed + (work + parts // shards) // MIB + 1

    def enough_mib(self, request: Request) -> int:
        """Beyond this more memory brings little."""
        more = max(0, ENOUGH_TOKENS - LEAST_REQUESTS * self.tokens(request))
        return self.need_mib(request) + self._kv(more) // request.num_shard // MIB

    def _kv(self, tokens: int) -> int:
        return int(self.model.kv_bytes * tokens / USABLE_KV)


@dataclass(frozen=True, slots=True)
class Server:
    """A server in its place; `share_mib` is what it may take of each of its GPUs."""

    name: str
    wanted: Wanted
    gpus: tuple[Gpu, ...]
    need_mib: int
    share_mib: int

    @property
    def kind(self) -> str:
        return self.wanted.kind


@dataclass(frozen=True, slots=True)
class Plan:
    """What runs where."""

    request: Request
    servers: tuple[Server, ...]
    prefill: int
    adopted: tuple[Adopted, ...] = ()

    def of(self, kind: str) -> tuple[Server, ...]:
        """The replicas of a kind, the first first."""
        return tuple(server for server in self.servers if server.kind == kind)

    def phases(self) -> list[list[str]]:
        """Names of servers to start at once, group after group: on one GPU one after the other."""
        groups: list[list[Server]] = []
        for server in self.servers:
            for group in groups:
                if not any(_overlap(server, other) for other in group):
                    group.append(server)
                    break
            else:
                groups.append([server])
        return [[server.name for server in group] for group in groups]


def _overlap(one: Server, other: Server) -> bool:
    return bool({gpu.uuid for gpu in one.gpus} & {gpu.uuid for gpu in other.gpus})


@dataclass(frozen=True, slots=True)
class Shortage:
    """A server that found no place: the best GPU had so much too little."""

    wanted: Wanted
    need_mib: int
    best: Gpu | None
    left_mib: int
    gpus_wanted: int


class DoesNotFitError(MachineError):
    """The GPUs are too small, too few or too full."""


def make(request: Request, found: GpuSurvey, adopted: tuple[Adopted, ...] = ()) -> Plan:
    """The plan for a request on the GPUs that were found.

    Args:
        adopted: servers that run already, of kinds that need no place.

    Raises:
        UsageError: an engine can't serve what is asked.
        DoesNotFitError: by how much, and what would fit.
        MachineError: there is no GPU.
    """
    request = replace(request, adopt=named(adopted))
    if not wanted(request, PREFILL_TOKENS[0]):  # an impossible wish is told before a missing GPU
        return Plan(request, (), PREFILL_TOKENS[0], adopted)
    if not found.gpus:
        raise MachineError(
            f"{found.problem or 'no GPU'}; to see a plan for other GPUs: make stack-plan GPUS=24,24; "
            "or compute in process: --engine torch"
        )
    tried = _try(request, found.gpus)
    if isinstance(tried, Plan):
        return replace(tried, adopted=adopted)
    fits = list(_that_fit(request, found.gpus))
    instead = (
        f"what would fit: {'; '.join(fits)}" if fits else "nothing smaller that is known would fit either"
    )
    raise DoesNotFitError(f"{_shortage(tried)}; {instead}; or compute in process: --engine torch")


def wanted(request: Request, prefill: int) -> dict[str, Wanted]:
    """The kinds of servers that are ours to start, as the table of engines has them.

    Raises:
        UsageError: an engine can't serve the model so.
    """
    asked = {
        "text": (engines.ENGINES[request.text], "", request.text_quantization),
        "vision": (engines.ENGINES[request.vision], request.vision_image, request.vision_quantization),
    }
    made = {}
    for kind in request.own_models:
        engine, image, quantization = asked[kind]
        name = request.models[kind]
        model, checkpoint = sizes.identify(name)
        if checkpoint != "none" and quantization != "none":
            raise UsageError(f"{name} is quantised already; {kind.upper()}_QUANTIZATION=none")
        quantization = quantization if checkpoint == "none" else checkpoint
        if (model.type == "qwen3") != (kind == "text"):
            raise UsageError(f"{name} is a {model.type} model, not one for {kind}; name another")
        launch = engines.launch(engine.name, model.type, quantization, shards=request.num_shard, image=image)
        if request.repeatable == "on" and engine == engines.SGLANG:
            launch = replace(launch, arguments=(*launch.arguments, engines.REPEATABLE))
        made[kind] = Wanted(kind, engine, image or engine.image, model, name, quantization, launch, prefill)
    return made


def _try(request: Request, gpus: tuple[Gpu, ...]) -> Plan | Shortage:
    # TGI does not cut a prefill of Qwen3 into chunks: the batch has to hold the longest prompt.
    budgets = [max(tokens, request.max_total_tokens) for tokens in PREFILL_TOKENS]
    for prefill in budgets:
        tried = _place(request, gpus, prefill)
        if isinstance(tried, Plan):
            return tried
    return tried


def _place(request: Request, gpus: tuple[Gpu, ...], prefill: int) -> Plan | Shortage:
    left = {gpu.uuid: gpu.free_mib - KEPT_FREE_MIB for gpu in gpus}
    placed: list[tuple[str, Wanted, tuple[Gpu, ...]]] = []
    kinds = sorted(wanted(request, prefill).values(), key=lambda one: -one.need_mib(request))
    for replica in range(request.replicas):
        for one in kinds:
            need = one.need_mib(request)
            ranked = _ranked(gpus, placed, one.kind, left, alone=request.num_shard == 1)
            chosen = _alike([gpu for gpu in ranked if left[gpu.uuid] >= need], request.num_shard)
            if not chosen:
                best = max(ranked, key=lambda gpu: left[gpu.uuid], default=None)
                return Shortage(one, need, best, left[best.uuid] if best else 0, request.num_shard)
            for gpu in chosen:
                left[gpu.uuid] -= need
            name = one.kind if replica == 0 else f"{one.kind}-{replica + 1}"
            placed.append((name, one, tuple(sorted(chosen, key=lambda gpu: gpu.label))))
    return Plan(request, tuple(_shares(request, placed, left)), prefill)


def _ranked(
    gpus: tuple[Gpu, ...],
    placed: list[tuple[str, Wanted, tuple[Gpu, ...]]],
    kind: str,
    left: dict[str, int],
    *,
    alone: bool,
) -> list[Gpu]:
    """GPUs without a replica of this kind, those with none of our servers first, then by what is left.

    An instance of MIG reaches no other GPU, and takes one server.
    """
    taken = {gpu.uuid for _, one, chosen in placed for gpu in chosen if one.kind == kind or gpu.is_instance}
    shared = {gpu.uuid for _, _, chosen in placed for gpu in chosen}
    free = [gpu for gpu in gpus if gpu.uuid not in taken and (alone or not gpu.is_instance)]
    return sorted(free, key=lambda gpu: (gpu.uuid in shared, -left[gpu.uuid]))


def _alike(gpus: list[Gpu], count: int) -> list[Gpu]:
    """The first so many of one name: a server's GPUs are all of a size."""
    for one in gpus:
        same = [gpu for gpu in gpus if gpu.name == one.name]
        if len(same) >= count:
            return same[:count]
    return []


def _shares(
    request: Request, placed: list[tuple[str, Wanted, tuple[Gpu, ...]]], left: dict[str, int]
) -> Iterator[Server]:
    """What is left on a GPU goes in equal parts to the servers on it."""
    sharing = {uuid: sum(uuid in {gpu.uuid for gpu in gpus} for _, _, gpus in placed) for uuid in left}
    for name, one, gpus in placed:
        need = one.need_mib(request)
        more = min(left[gpu.uuid] // sharing[gpu.uuid] for gpu in gpus)
        yield Server(name, one, gpus, need, min(need + more, one.enough_mib(request)))


def _shortage(short: Shortage) -> str:
    one = short.wanted
    where = "on one GPU" if short.gpus_wanted == 1 else f"on each of {short.gpus_wanted} GPUs"
    need = f"{one.kind}: {one.name} ({one.quantization}) needs {short.need_mib:,} MiB {where}"
    if short.best is None:
        return f"{need}, and no GPU is left for it"
    have = f"GPU {short.best.label} ({short.best.name}) has {max(0, short.left_mib):,} MiB for it"
    missing = short.need_mib - short.left_mib
    if missing <= 0:
        return f"{need}, and too few GPUs have that"
    return f"{need}; {have}, {missing:,} MiB too few"


def _that_fit(request: Request, gpus: tuple[Gpu, ...]) -> Iterator[str]:
    """Requests near this one that do fit, as the variables to give."""
    found = 0
    for said, other in _alternatives(request):
        try:
            fits = isinstance(_try(other, gpus), Plan)
        except UsageError:
            continue
        if fits:
            found += 1
            yield said
        if found == 4:
            return


def _alternatives(request: Request) -> Iterator[tuple[str, Request]]:
    for shards in SHARDS:
        if shards > request.num_shard:
            yield f"NUM_SHARD={shards}", replace(request, num_shard=shards)
    yield "VISION_QUANTIZATION=fp8", replace(request, vision_quantization="fp8")
    yield "TEXT_QUANTIZATION=fp8", replace(request, text_quantization="fp8")
    yield "TEXT_QUANTIZATION=8bit", replace(request, text_quantization="8bit")
    for tokens in (4096, 2048):
        if request.max_total_tokens > tokens:
            yield f"MAX_TOTAL_TOKENS={tokens}", replace(request, max_total_tokens=tokens)
    for fewer in range(request.replicas - 1, 0, -1):
        yield f"REPLICAS={fewer}", replace(request, replicas=fewer)
    for name in _smaller(request.models["vision"]):
        yield f"VISION_MODEL={name}", replace(request, vision_model=name)
    for name in _smaller(request.text_model):
        yield f"TEXT_MODEL={name}", replace(request, text_model=name)
    for vision in _smaller(request.models["vision"]):
        for text in _smaller(request.text_model):
            both = replace(request, vision_model=vision, text_model=text)
            yield f"VISION_MODEL={vision} TEXT_MODEL={text}", both


def _smaller(name: str) -> list[str]:
    """Models of the same type with fewer parameters, the largest first."""
    model, _ = sizes.identify(name)
    less = [m for m in MODELS.values() if m.type == model.type and m.parameters < model.parameters]
    return [m.name for m in sorted(less, key=lambda m: -m.parameters)]
