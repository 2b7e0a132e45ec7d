"""The GPUs of this host, as nvidia-smi tells of them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tgi_stack.errors import UsageError
from tgi_stack.stack.programs import MissingProgramError, run

FIELDS = (
    "index",
    "uuid",
    "name",
    "memory.total",
    "memory.free",
    "compute_cap",
    "driver_version",
    "mig.mode.current",
)
LEAST_CAPABILITY = 8.0  # bf16, and what TGI's attention kernels are built for
# nvidia-smi's tables tell no memory of a MIG instance. Its name does, in decimal gigabytes of the whole GPU's
# nominal size; the largest known difference to the usable MiB is a tenth.
MIG_USABLE = 0.85
_MIG = re.compile(
    r"^\s+MIG\s+(?P<profile>\S*?(?P<gb>\d+)gb\S*)\s+Device\s+(?P<number>\d+):\s+\(UUID: (?P<uuid>[^)]+)\)"
)
_GPU = re.compile(r"^GPU (?P<index>\d+):")


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU, or an instance of one that MIG divides; memory in MiB. `label` is its number: `0`, or `0:1`."""

    label: str
    uuid: str
    name: str
    total_mib: int
    free_mib: int
    capability: float
    driver: str

    @property
    def is_instance(self) -> bool:
        """Whether MIG made it."""
        return ":" in self.label


@dataclass(frozen=True, slots=True)
class GpuSurvey:
    """The GPUs that can be used; `left_out` says of others why not, `problem` why there are none."""

    gpus: tuple[Gpu, ...]
    left_out: tuple[str, ...] = ()
    problem: str | None = None


def read() -> GpuSurvey:
    """Asks nvidia-smi; a host without it, without a driver or without a GPU is no error but a problem."""
    try:
        done = run(["nvidia-smi", f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits"])
    except MissingProgramError:
        return GpuSurvey((), problem="nvidia-smi is not on PATH: no NVIDIA driver is installed")
    if done.status or not done.stdout.strip() or "No devices were found" in done.said:
        said = done.said.splitlines()
        return GpuSurvey((), problem=f"nvidia-smi: {said[0] if said else f'ended with status {done.status}'}")
    instances = ""
    if any(row[-1] == "Enabled" for row in _rows(done.stdout)):
        instances = run(["nvidia-smi", "-L"]).stdout
    return parse(done.stdout, instances)


def parse(table: str, instances: str = "") -> GpuSurvey:
    """The GPUs in nvidia-smi's comma-separated answer to a query of `FIELDS`, and in its list `-L`."""
    mig = _instances(instances)
    gpus: list[Gpu] = []
    left_out = [
        f"a line of nvidia-smi that can't be read: {line.strip()[:80]}"
        for line in table.splitlines()
        if line.strip() and not _rows(line)
    ]
    for row in _rows(table):
        index, uuid, name, total, free, capability, driver, mode = row
        if not (total.isdigit() and free.isdigit()):
            left_out.append(f"GPU {index} ({name}): its memory is not told ({total})")
            continue
        one = Gpu(index, uuid, name, int(total), int(free), _capability(capability), driver)
        if one.capability < LEAST_CAPABILITY:
            left_out.append(
                f"GPU {index} ({name}): compute capability {capability}, {LEAST_CAPABILITY} is needed"
            )
        elif mode == "Enabled" and index not in mig:
            left_out.append(
                f"GPU {index} ({name}): MIG is on and has no instance; nvidia-smi mig -cgi makes them"
            )
        elif mode == "Enabled":
            gpus += [_instance(one, *found) for found in mig[index]]
        else:
            gpus.append(one)
    problem = None if gpus else "no GPU can be used: " + ("; ".join(left_out) or "nvidia-smi tells of none")
    return GpuSurvey(tuple(gpus), tuple(left_out), problem)


def _capability(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:  # [N/A], from a driver that does not know the field
        return 0.0


def _rows(table: str) -> list[list[str]]:
    rows = [[cell.strip() for cell in line.split(",")] for line in table.splitlines()]
    return [row for row in rows if len(row) == len(FIELDS)]


def _instances(listed: str) -> dict[str, list[tuple[str, str, int, str]]]:
    """By GPU: the number, profile, nominal gigabytes and UUID of each of its MIG instances."""
    found: dict[str, list[tuple[str, str, int, str]]] = {}
    index = ""
    for line in listed.splitlines():
        if gpu := _GPU.match(line):
            index = gpu["index"]
        elif part := _MIG.match(line):
            entry = (part["number"], part["profile"], int(part["gb"]), part["uuid"])
            found.setdefault(index, []).append(entry)
    return found


def _instance(gpu: Gpu, number: str, profile: str, gigabytes: int, uuid: str) -> Gpu:
    usable = min(int(gigabytes * 1024 * MIG_USABLE), gpu.total_mib)
    label = f"{gpu.label}:{number}"
    return Gpu(label, uuid, f"{gpu.name} MIG {profile}", usable, usable, gpu.capability, gpu.driver)


def assumed(sizes: str) -> GpuSurvey:
    """GPUs that are not there, for a look at a plan: `24,80` is one of 24 GiB and one of 80, both empty.

    Raises:
        UsageError: no such sizes.
    """
    try:
        mib = [int(float(size) * 1024) for size in sizes.split(",")]
    except ValueError as error:
        raise UsageError(f"--assume-gpus {sizes}: give their memory in GiB, such as 24,24") from error
    if not all(1024 <= size <= 1024 * 1024 for size in mib):
        raise UsageError(f"--assume-gpus {sizes}: from 1 to 1024 GiB each")
    return GpuSurvey(
        tuple(
            Gpu(str(index), f"GPU-assumed-{index}", f"assumed, {size / 1024:g} GiB", size, size, 9.0, "")
            for index, size in enumerate(mib)
        )
    )
