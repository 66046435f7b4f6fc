"""``niwaki compare``: proposers side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from niwaki.outputs import Json, stdout, stdout_for_results

if TYPE_CHECKING:
    from rich.console import RenderableType

    from niwaki.search.compare import Found


def compare(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="As for `niwaki search`.")],
    *,
    proposers: Annotated[str, typer.Option(metavar="NAME,...", help="random, nsga2, tpe, tas, supernet.")],
    seeds: Annotated[int, typer.Option(min=1, help="Searches with each proposer.")] = 3,
    set_: Annotated[list[str] | None, typer.Option(
        "--set", metavar="KEY=VALUE", help="Override any key of the configuration. May be repeated.")] = None,
    to: Annotated[Path, typer.Option(
        metavar="FOLDER", help="Where the runs are kept; what is there is not done again.")] = Path("runs/compare"),
    as_json: Json = False,
) -> None:
    """Run the same search with several proposers and seeds: hypervolume of the fronts against training images."""
    from niwaki.search.compare import compare as search_with
    from niwaki.search.compare import to_json
    from niwaki.search.config import load_config
    from niwaki.search.report.compared import write_page

    names = [name.strip() for name in proposers.split(",") if name.strip()]
    if not names:
        raise typer.BadParameter(f"{proposers!r}: expected names of proposers", param_hint="--proposers")
    resolved = load_config(config, set_ or [])
    with stdout_for_results():
        found = search_with(resolved, names, seeds, to, tell)
    facts = to_json(found)
    (to / "compare.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    page = write_page(found, to / "compare.html")
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    stdout().print(table(found))
    typer.echo(f"{page}")


def tell(event: object) -> None:
    """A line on stderr where a search begins and where it ends."""
    from niwaki.search.events import RunFinished, RunStarted
    from niwaki.search.report import text

    if isinstance(event, RunStarted):
        typer.echo(f"{event.name}: in {event.folder}", err=True)
    elif isinstance(event, RunFinished):
        typer.echo(f"{event.folder.name}: {event.members} models after {text.seconds(event.seconds)}", err=True)


def table(found: list[Found]) -> RenderableType:
    """One row a proposer, best first."""
    from rich.table import Table

    from niwaki.search.compare import summary
    from niwaki.search.report import text

    made = Table(box=None, padding=(0, 1), header_style="bold")
    made.add_column("proposer")
    for column in ("seeds", "training images", "hypervolume", "best test accuracy"):
        made.add_column(column, justify="right")
    for row in summary(found):
        spread = "" if row["hypervolume_std"] is None else f" ± {row['hypervolume_std']:.4f}"
        accuracy = text.percent(row["test"]) + ("" if row["test_std"] is None else f" ± {100 * row['test_std']:.2f}")
        volume = f"{row['hypervolume']:.4f}{spread}"
        made.add_row(row["proposer"], str(row["seeds"]), text.count(row["images"]), volume, accuracy)
    return made
