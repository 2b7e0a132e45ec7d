"""What nvidia-smi prints for the query of `gpus.FIELDS` and for `-L`.

Written after the format that NVIDIA documents (`--format=csv,noheader,nounits`), with the numbers of real
cards; no GPU was at hand to record them from.
"""

from __future__ import annotations

DRIVER = "570.124.06"


def row(index: int, name: str, total: int, free: int, capability: str, mig: str = "[N/A]") -> str:
    return f"{index}, {uuid(index)}, {name}, {total}, {free}, {capability}, {DRIVER}, {mig}\n"


def uuid(index: int) -> str:
    return f"GPU-{index:08x}-1f2e-4c3d-8b9a-0123456789ab"


L4 = row(0, "NVIDIA L4", 23034, 22564, "8.9")
TWO_L4 = L4 + row(1, "NVIDIA L4", 23034, 22564, "8.9")
H200 = row(0, "NVIDIA H200", 143771, 143156, "9.0", "Disabled")
EIGHT_H100 = "".join(row(i, "NVIDIA H100 80GB HBM3", 81559, 81079, "9.0", "Disabled") for i in range(8))
# Somebody trains on the first: 76 GB are taken.
FILLED = row(0, "NVIDIA A100-SXM4-80GB", 81920, 4310, "8.0", "Disabled") + row(
    1, "NVIDIA A100-SXM4-80GB", 81920, 81046, "8.0", "Disabled"
)
OLD = row(0, "Tesla V100-SXM2-16GB", 16384, 16160, "7.0")
UNMEASURED = f"0, {uuid(0)}, NVIDIA GB10, [N/A], [N/A], 12.1, 580.95.05, [N/A]\n"
MIG = row(0, "NVIDIA A100-SXM4-40GB", 40960, 40327, "8.0", "Enabled")
MIG_LIST = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-00000000-1f2e-4c3d-8b9a-0123456789ab)
  MIG 3g.20gb     Device  0: (UUID: MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f)
  MIG 2g.10gb     Device  1: (UUID: MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb)
"""
NO_DRIVER = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest "
    "NVIDIA driver is installed and running.\n"
)
NO_DEVICES = "No devices were found\n"
