"""`fastqwen settings`, `check`, `schema` and `plan-scale`: what is told before a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from tgi_stack.commands.declare import OptionsOf, command
from tgi_stack.commands.options import Arguments, Input, Items, Map, Positional, Settings
from tgi_stack.declared.option import FILES, RUNNER, Option
from tgi_stack.declared.servers import JOBS

TAKERS = (*JOBS, "bench", "doctor", "cache")
SHAPES = (*JOBS, "item")


@command("settings", "checks.settings", takes=TAKERS)
@dataclass(frozen=True, kw_only=True)
class EffectiveSettings(Arguments):
    """The settings of a command, and where each comes from. Secrets are left out.

    What is printed can be a fastqwen.toml.
    """

    jobs: Annotated[
        list[str] | None, Positional("COMMAND", f"Whose settings: {', '.join(TAKERS)}; else all.")
    ] = None
    flags: Annotated[dict[str, Any], OptionsOf(Settings)]


@command("check", "checks.check", takes=JOBS)
@dataclass(frozen=True, kw_only=True)
class Check(Arguments):
    """What would fail in an input, by type. No model is asked.

    It ends with the exit status that the job would have.
    """

    input: Input
    job: Annotated[str, Option("The job that it is an input of.", FILES, choices=JOBS)]
    items: Items = None
    map: Map = None
    settings: Settings


@command("schema", "checks.schema")
@dataclass(frozen=True, kw_only=True)
class Schema(Arguments):
    """The JSON schema of a job's rows and records, or of items."""

    name: Annotated[str, Positional("NAME", f"{', '.join(SHAPES[:-1])} or {SHAPES[-1]}.")]
    only: Annotated[
        str | None, Option("One of the two.", FILES, choices=("row", "record"), unset="both, either will do")
    ] = None


@command("plan-scale", "checks.plan_scale")
@dataclass(frozen=True, kw_only=True)
class PlanScale(Arguments):
    """How long a job of very many rows takes under Ray. What limits it, and what it costs.

    A model: docs/design/scale.md says how far it was from measured runs. Rates are those of other machines
    until you give your own.
    """

    rows: Annotated[int, Positional("ROWS", "How many rows.")]
    gpus: Annotated[int, Option("GPUs, of all hosts.", RUNNER, metavar="N", least=0, most=10**6)]
    cores: Annotated[
        int | None,
        Option("Cores of actors, of all hosts.", RUNNER, metavar="N", unset="8 a GPU", least=1, most=10**7),
    ] = None
    hits: Annotated[
        float, Option("The share of rows that a cache knows.", RUNNER, metavar="SHARE", least=0.0, most=1.0)
    ] = 0.0
    rate: Annotated[
        float,
        Option(
            "Rows that a GPU answers in a second; of rerank with 20 candidates by default.",
            RUNNER,
            metavar="ROWS/S",
            least=1e-3,
            most=1e9,
        ),
    ] = 897.0
    core_rate: Annotated[
        float,
        Option("Rows that a core prepares in a second.", RUNNER, metavar="ROWS/S", least=1e-3, most=1e9),
    ] = 250.0
    block: Annotated[
        int, Option("Rows of a block, as --rows-per-block.", RUNNER, metavar="N", least=1, most=10**6)
    ] = 500
    price: Annotated[float, Option("Of a GPU for an hour.", RUNNER, metavar="PRICE", least=0.0, most=1e6)] = (
        0.0
    )
