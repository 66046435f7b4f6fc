"""The command line; the commands that ask about a model are in :mod:`niwaki.cli_models`."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console

from niwaki.cli_compare import compare
from niwaki.cli_models import check, latency, space
from niwaki.cli_status import status
from niwaki.outputs import Json, stdout, stdout_for_results

# torch, ray and the rest of niwaki are imported inside the commands: `niwaki --help` should not wait for them
if TYPE_CHECKING:
    from niwaki.search.result import Result

app = typer.Typer(
    name="niwaki", no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="From a trained PyTorch model and budgets to the Pareto front of smaller models, distilled and exported.",
    epilog="Begin with: niwaki search quickstart",
)

_WRONG_PATH = (
    errno.EACCES, errno.EEXIST, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EPERM, errno.EROFS,
)
_BUDGETS = "Budgets: all that are given hold together"
_WHERE = "Where trials run"

Latency = Annotated[str | None, typer.Option(
    metavar="LIMIT", help="Latency of one batch: 3ms, 800us, or 50% of the teacher's.", rich_help_panel=_BUDGETS)]
Size = Annotated[str | None, typer.Option(
    metavar="LIMIT", help="Stored size: 2MB (1 MB = 1,000,000 bytes), 512KiB, 50%.", rich_help_panel=_BUDGETS)]
Macs = Annotated[str | None, typer.Option(
    metavar="LIMIT", help="Multiply-accumulates of one example: 500M, 1.5G, 50%.", rich_help_panel=_BUDGETS)]
Params = Annotated[str | None, typer.Option(
    metavar="LIMIT", help="Parameters: 250k, 4M, 50%.", rich_help_panel=_BUDGETS)]
Memory = Annotated[str | None, typer.Option(
    metavar="LIMIT", help="Activation tensors alive at once, for one example: 2MB, 512KiB, 50%.",
    rich_help_panel=_BUDGETS)]
Address = Annotated[str | None, typer.Option(
    metavar="HOST:PORT", help="A Ray cluster that runs already; auto: the one that this machine is part of.",
    rich_help_panel=_WHERE)]
Workers = Annotated[int | None, typer.Option(min=1, help="Trials that run at the same time.", rich_help_panel=_WHERE)]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show what Ray prints.", rich_help_panel=_WHERE)]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, such as runs/quickstart.")]


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"niwaki {version('niwaki')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option(
        "--version", callback=_version, is_eager=True, help="Print the version and exit.")] = False,
) -> None:
    """Options of all commands."""


@app.command()
def search(  # noqa: PLR0913 - the options of a command
    config: Annotated[str | None, typer.Argument(
        metavar="[CONFIG]", help="A YAML file, or the name of a configuration that comes with the package.")] = None,
    *,
    base: Annotated[str | None, typer.Option(
        "--from", metavar="RUN", help="Begin with what another run found out (supernet, scores, latency model), "
        "usually for another budget; without CONFIG, with its configuration.")] = None,
    set_: Annotated[list[str] | None, typer.Option(
        "--set", metavar="KEY=VALUE", help="Override any key: --set train.lr=0.05. May be repeated.")] = None,
    latency: Latency = None, size: Size = None, macs: Macs = None, params: Params = None, memory: Memory = None,
    target: Annotated[str | None, typer.Option(
        metavar="SPEC", help="Where latency counts: onnxruntime:threads=1, torch:threads=4,batch=8, ...")] = None,
    latency_from: Annotated[str | None, typer.Option(
        metavar="RUN", help="Take over the latency model of another run of the same space and target.")] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Candidates to try.")] = None,
    runner: Annotated[str | None, typer.Option(
        help="tune: parallel, on Ray. local: in this process.", rich_help_panel=_WHERE)] = None,
    workers: Workers = None, address: Address = None, verbose: Verbose = False,
    name: Annotated[str | None, typer.Option(help="Name of the run; its folder is runs/NAME.")] = None,
    to: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Run folder, instead of runs/NAME.")] = None,
    go_on: Annotated[bool, typer.Option(
        "--resume", help="Continue the run where its folder holds one: one command begins and continues.")] = False,
    seed: Annotated[int | None, typer.Option(min=0, help="Every random choice follows from it.")] = None,
    as_json: Json = False,
) -> None:
    """Search: data, teacher, space, trials, front, export, report.

    Budgets given here replace those of the configuration; they hold together. Nothing that exists is overwritten.
    """
    if config is None and base is None:
        raise typer.BadParameter("give a configuration, or a run to begin from (--from RUN)", param_hint="CONFIG")
    if base is not None and name is None and to is None:
        raise typer.BadParameter("the new run needs a name or a folder of its own: --name or --to", param_hint="--from")
    flags = {
        "budget.latency": latency, "budget.size": size, "budget.macs": macs, "budget.params": params,
        "budget.memory": memory,
        "search.trials": trials, "run.runner": runner, "run.name": name,
        "run.folder": None if to is None else str(to), "run.seed": seed, "latency.target": target,
        "latency.calibration": latency_from, "run.base": base, **_where(address, workers, verbose),
    }
    given = [f"{key}={json.dumps(value)}" for key, value in flags.items() if value is not None]
    overrides = [*(inherited(base, flags) if base else []), *(set_ or []), *given]

    from niwaki.search.config import load_config

    resolved = load_config(config or str(Path(base or "") / "config.yaml"), overrides)

    def start(listener: Callable[[Any], None]) -> Result:
        from niwaki.search import controller
        from niwaki.search.subject import folder_of

        if go_on and (folder_of(resolved) / "config.yaml").is_file():
            return controller.resume(folder_of(resolved), listener, run=resolved.run)
        return controller.search(resolved, listener)

    _watch(start, as_json)


def inherited(base: str, flags: dict[str, Any]) -> list[str]:
    """Overrides of a run that begins from another: budgets that are given replace all of its own."""
    found = ["run.folder=null"]
    if (Path(base) / "latency.json").is_file():
        found.append(f"latency.calibration={json.dumps(base)}")
    budgets = [key for key in flags if key.startswith("budget.")]
    return found + ([f"{key}=null" for key in budgets] if any(flags[key] is not None for key in budgets) else [])


def _where(address: str | None, workers: int | None, verbose: bool) -> dict[str, Any]:
    return {"run.address": address, "run.workers": workers, "run.verbose": verbose or None}


@app.command()
def resume(
    run: RunArgument, *, workers: Workers = None, address: Address = None, verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Continue a run after any kind of stop; finished trials are kept."""

    def start(listener: Callable[[Any], None]) -> Result:
        from niwaki.search import controller
        from niwaki.search.config import load_config

        given = [f"{k}={json.dumps(v)}" for k, v in _where(address, workers, verbose).items() if v is not None]
        return controller.resume(run, listener, run=load_config(run / "config.yaml", given).run if given else None)

    _watch(start, as_json)


@app.command()
def front(
    run: RunArgument,
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV: plain numbers, units in the header.")] = False,
) -> None:
    """Show the Pareto front of a run."""
    if as_json and as_csv:
        raise typer.BadParameter("--json and --csv exclude each other")
    from niwaki.search.result import Result

    _print_front(Result(run), as_json, as_csv)


@app.command()
def export(  # noqa: PLR0913 - the options of a command
    run: RunArgument,
    *,
    to: Annotated[Path, typer.Option(metavar="FOLDER", help="Where to write; must not exist yet.")],
    latency: Latency = None, size: Size = None, macs: Macs = None, params: Params = None, memory: Memory = None,
    formats: Annotated[list[str] | None, typer.Option(
        "--format", metavar="NAME",
        help="onnx, torch_export, safetensors, python; may be repeated; default: the first three.")] = None,
    pad: Annotated[str | None, typer.Option(
        metavar="STEP", help="Fill layers up with zeros to multiples of STEP (16), or to what pays on the run's "
        "target (auto): outputs stay the same, runtimes like round widths.")] = None,
    as_json: Json = False,
) -> None:
    """Export the most accurate member of the front within the budgets given here, without retraining."""
    from niwaki.search.padding import read_pad
    from niwaki.search.result import Result

    step = None if pad is None else read_pad(pad)
    asked = {"latency": latency, "size": size, "macs": macs, "params": params, "memory": memory}
    member = Result(run).best(**{k: v for k, v in asked.items() if v is not None})
    with stdout_for_results():
        card = member.export(to, formats or ["onnx", "torch_export", "safetensors"], step)
    if as_json:
        typer.echo(json.dumps(card, indent=2))
        return
    for facts in card["formats"].values():
        typer.echo(f"{to / facts['file']}: {facts['bytes']:,} bytes, largest difference {facts['error']:.1e}")
    typer.echo(f"{to / 'card.json'}")
    if pad is not None:
        changes = [f"{group} {kept} -> {wide}" for group, (kept, wide) in card["padded"].items()]
        typer.echo(f"padded with zeros: {', '.join(changes) or 'nothing'}")
        for group, reason in card.get("not_padded", {}).items():
            typer.echo(f"not padded: {group}: {reason}")


@app.command()
def report(
    run: RunArgument,
    to: Annotated[Path | None, typer.Option(metavar="FILE", help="Instead of RUN/report.html.")] = None,
) -> None:
    """Write report.html: one self-contained page with the front, its members and all settings."""
    if to is not None and to.exists():
        raise typer.BadParameter(f"{to} exists already; nothing is overwritten", param_hint="--to")
    from niwaki.search.report import write_report
    from niwaki.search.result import Result
    from niwaki.search.summary import report_data

    with stdout_for_results():
        written = write_report(report_data(Result(run)), to or run / "report.html")
    typer.echo(str(written))


for command in (status, space, check, latency, compare):
    app.command()(command)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """The console script. Exit codes: 0 done, 1 a run failed, 2 the input is wrong, 130 interrupted."""
    try:
        app(args=None if argv is None else list(argv), prog_name="niwaki")
    except OSError as error:
        from niwaki.search.files import DISK_FULL

        if error.errno in DISK_FULL:
            _fail(f"{error.filename or 'a file'}: {error.strerror}; what is finished is kept: make room, then "
                  "`niwaki resume RUN`", 1)
        if error.errno not in _WRONG_PATH:
            raise
        _fail(f"{error.filename}: {error.strerror}", 2)
    except (ValueError, RuntimeError) as error:
        from niwaki.spaces.errors import InputError

        if isinstance(error, InputError):
            _fail(str(error), 2)
        if isinstance(error, RuntimeError) and type(error).__module__.startswith("niwaki."):
            _fail(str(error), 1)  # RunError, ExportError: they say all there is, a traceback would add nothing
        raise
    sys.exit(0)


def _fail(message: str, code: int) -> NoReturn:
    print(f"niwaki: {message}", file=sys.stderr)
    sys.exit(code)


def _watch(start: Callable[[Callable[[Any], None]], Result], as_json: bool) -> None:
    from niwaki.console import Watcher

    watcher = Watcher(Console(stderr=True, highlight=False))
    try:
        with stdout_for_results(), watcher:
            result = start(watcher)
    except KeyboardInterrupt:
        if not (watcher.folder and (Path(watcher.folder) / "config.yaml").is_file()):
            _fail("stopped before anything was written", 130)
        count = f"{watcher.finished} finished trial{'' if watcher.finished == 1 else 's'}"
        _fail(f"stopped; {count} kept. Continue with: niwaki resume {watcher.folder}", 130)
    _print_front(result, as_json)


def _print_front(result: Result, as_json: bool, as_csv: bool = False) -> None:
    from niwaki.search.files import read_text

    if as_json:
        typer.echo(json.dumps({"folder": str(result.folder.path), **result.content}, indent=2))
    elif as_csv:
        assert result.content  # an InputError says what to do where the run has no front yet
        typer.echo(read_text(result.folder.path / "front.csv"), nl=False)
    else:
        from niwaki import tables
        from niwaki.search.summary import report_data

        stdout().print(tables.front(report_data(result)))
