"""The command line: ``niwaki search``, ``resume``, ``front``, ``export``, ``report``, ``space``, ``latency``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console

# torch, ray and the rest of niwaki are imported inside the commands: `niwaki --help` should not wait for them
if TYPE_CHECKING:
    from niwaki.search.result import Result

app = typer.Typer(
    name="niwaki", no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="From a trained PyTorch model and budgets to the Pareto front of smaller models, distilled and exported.",
    epilog="Begin with: niwaki search quickstart",
)

_BUDGETS = "Budgets: all that are given hold together"

Latency = Annotated[str | None, typer.Option(
    metavar="LIMIT", help="Latency of one batch: 3ms, 800us, or 50% of the teacher's.", rich_help_panel=_BUDGETS)]
Size = Annotated[str | None, typer.Option(
    metavar="LIMIT", help="Stored size: 2MB (1 MB = 1,000,000 bytes), 512KiB, 50%.", rich_help_panel=_BUDGETS)]
Macs = Annotated[str | None, typer.Option(
    metavar="LIMIT", help="Multiply-accumulates of one example: 500M, 1.5G, 50%.", rich_help_panel=_BUDGETS)]
Params = Annotated[str | None, typer.Option(
    metavar="LIMIT", help="Parameters: 250k, 4M, 50%.", rich_help_panel=_BUDGETS)]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout; progress goes to stderr.")]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, such as runs/quickstart.")]
ModelArgument = Annotated[str, typer.Argument(
    metavar="MODEL", help="resnet50, cifar_resnet20, any torchvision classifier, or package.module:function.")]
InputShape = Annotated[str | None, typer.Option(
    "--input", metavar="SHAPE", help="Shape of an input, batch first: 1,3,224,224. Default: the model's usual.")]
Classes = Annotated[int, typer.Option(min=1, help="Outputs of the network.")]


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
    config: Annotated[str, typer.Argument(
        metavar="CONFIG", help="A YAML file, or the name of a configuration that comes with the package.")],
    *,
    set_: Annotated[list[str] | None, typer.Option(
        "--set", metavar="KEY=VALUE", help="Override any key: --set train.lr=0.05. May be repeated.")] = None,
    latency: Latency = None, size: Size = None, macs: Macs = None, params: Params = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Candidates to try.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Trials that run at the same time.")] = None,
    runner: Annotated[str | None, typer.Option(help="tune: parallel, on Ray. local: in this process.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the run; its folder is runs/NAME.")] = None,
    to: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Run folder, instead of runs/NAME.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Every random choice follows from it.")] = None,
    as_json: Json = False,
) -> None:
    """Search: data, teacher, space, trials, front, export, report.

    Budgets given here replace those of the configuration; they hold together. Nothing that exists is overwritten.
    """
    flags = {
        "budget.latency": latency, "budget.size": size, "budget.macs": macs, "budget.params": params,
        "search.trials": trials, "run.workers": workers, "run.runner": runner, "run.name": name,
        "run.folder": None if to is None else str(to), "run.seed": seed,
    }
    overrides = [*(set_ or []), *(f"{key}={json.dumps(value)}" for key, value in flags.items() if value is not None)]

    from niwaki.search.config import load_config

    resolved = load_config(config, overrides)

    def start(listener: Callable[[Any], None]) -> Result:
        from niwaki.search import controller

        return controller.search(resolved, listener)

    _watch(start, as_json)


@app.command()
def resume(run: RunArgument, as_json: Json = False) -> None:
    """Continue a run after any kind of stop; finished trials are kept."""

    def start(listener: Callable[[Any], None]) -> Result:
        from niwaki.search import controller

        return controller.resume(run, listener)

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
    latency: Latency = None, size: Size = None, macs: Macs = None, params: Params = None,
    formats: Annotated[list[str] | None, typer.Option(
        "--format", metavar="NAME", help="onnx, torch_export, safetensors; may be repeated; default: all.")] = None,
    as_json: Json = False,
) -> None:
    """Export the most accurate member of the front within the budgets given here, without retraining."""
    from niwaki.search.result import Result

    asked = {"latency": latency, "size": size, "macs": macs, "params": params}
    member = Result(run).best(**{k: v for k, v in asked.items() if v is not None})
    with _stdout_for_results():
        card = member.export(to, formats or ["onnx", "torch_export", "safetensors"])
    if as_json:
        typer.echo(json.dumps(card, indent=2))
        return
    for facts in card["formats"].values():
        typer.echo(f"{to / facts['file']}: {facts['bytes']:,} bytes, largest difference {facts['error']:.1e}")
    typer.echo(f"{to / 'card.json'}")


@app.command()
def report(
    run: RunArgument,
    to: Annotated[Path | None, typer.Option(metavar="FILE", help="Instead of RUN/report.html.")] = None,
) -> None:
    """Write report.html: one self-contained page with the front, its members and all settings."""
    from niwaki.search.report import write_report
    from niwaki.search.result import Result
    from niwaki.search.summary import report_data

    with _stdout_for_results():
        written = write_report(report_data(Result(run)), to or run / "report.html")
    typer.echo(str(written))


@app.command()
def space(
    model: ModelArgument, input_: InputShape = None, classes: Classes = 1000,
    step: Annotated[int, typer.Option(min=1, help="Widths are multiples of it.")] = 1,
    as_json: Json = False,
) -> None:
    """Show what may be cut in a model, what may not, and why."""
    from niwaki.spaces import SpaceOptions, derive, explain

    with _stdout_for_results():
        network, example = _model(model, input_, classes)
        found = explain(derive(network, example, SpaceOptions(step=step)))
    if as_json:
        typer.echo(json.dumps({"schema": 1, "model": model, **found.to_json()}, indent=2))
        return
    from niwaki import tables

    _stdout().print(tables.space(model, found))


@app.command()
def latency(  # noqa: PLR0913 - the options of a command
    model: ModelArgument,
    *,
    target: Annotated[str, typer.Option(
        metavar="SPEC", help="RUNTIME:key=value,... with runtime torch or onnxruntime.")] = "torch:threads=1,batch=1",
    samples: Annotated[int, typer.Option(min=4, help="Candidates measured to fit the model.")] = 24,
    check: Annotated[int, typer.Option(min=0, help="Further candidates measured to check it.")] = 8,
    input_: InputShape = None, classes: Classes = 1000,
    to: Annotated[Path | None, typer.Option(metavar="FILE", help="Keep the fitted model as JSON.")] = None,
    as_json: Json = False,
) -> None:
    """Calibrate the latency model of a network on a target, and check it on candidates it has not seen."""
    from niwaki import timing
    from niwaki.search.targets import parse

    where = parse(target)
    if to is not None and to.exists():
        raise typer.BadParameter(f"{to} exists already; nothing is overwritten", param_hint="--to")
    with _stdout_for_results():
        network, example = _model(model, input_, classes)
        checked = timing.calibrate_and_check(network, example, where, samples, check)
    if to is not None:
        to.write_text(json.dumps(checked.model.to_json(), indent=2) + "\n", encoding="utf-8")
    if as_json:
        typer.echo(json.dumps({"schema": 1, "model": model, **checked.to_json()}, indent=2))
    else:
        _stdout().print(timing.table(model, checked))


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """The console script. Exit codes: 0 done, 1 a run failed, 2 the input is wrong, 130 interrupted."""
    try:
        app(args=None if argv is None else list(argv), prog_name="niwaki")
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


def _stdout() -> Console:
    """Tables are laid out for at least 80 columns, wherever they are piped to."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=max(100, console.width))


@contextmanager
def _stdout_for_results() -> Iterator[None]:
    """Whatever libraries print while they work goes to stderr."""
    with redirect_stdout(sys.stderr):
        yield


def _watch(start: Callable[[Callable[[Any], None]], Result], as_json: bool) -> None:
    from niwaki.console import Watcher

    watcher = Watcher(Console(stderr=True, highlight=False))
    try:
        with _stdout_for_results(), watcher:
            result = start(watcher)
    except KeyboardInterrupt:
        if not (watcher.folder and (Path(watcher.folder) / "config.yaml").is_file()):
            _fail("stopped before anything was written", 130)
        count = f"{watcher.finished} finished trial{'' if watcher.finished == 1 else 's'}"
        _fail(f"stopped; {count} kept. Continue with: niwaki resume {watcher.folder}", 130)
    _print_front(result, as_json)


def _print_front(result: Result, as_json: bool, as_csv: bool = False) -> None:
    if as_json:
        typer.echo(json.dumps({"folder": str(result.folder.path), **result.content}, indent=2))
    elif as_csv:
        assert result.content  # an InputError says what to do where the run has no front yet
        typer.echo((result.folder.path / "front.csv").read_text(encoding="utf-8"), nl=False)
    else:
        from niwaki import tables
        from niwaki.search.summary import report_data

        _stdout().print(tables.front(report_data(result)))


def _model(spec: str, shape: str | None, classes: int) -> tuple[Any, Any]:
    """The network called ``spec``, untrained, and two examples of its input."""
    import torch

    from niwaki.distill import build

    network = build(spec, classes, {}).eval()
    if shape is None:
        own = {"small_cnn": [1, 1, 8, 8], "inception_v3": [1, 3, 299, 299]}
        sizes = own.get(spec, [1, 3, 32, 32] if spec.startswith("cifar_") else [1, 3, 224, 224])
    else:
        try:
            sizes = [int(part) for part in shape.split(",")]
        except ValueError:
            sizes = []
        if len(sizes) < 2 or min(sizes) < 1:
            expected = "expected positive whole numbers, batch first, such as 1,3,224,224"
            raise typer.BadParameter(f"{shape!r}: {expected}", param_hint="--input")
    return network, torch.randn(2, *sizes[1:], generator=torch.Generator().manual_seed(0))
