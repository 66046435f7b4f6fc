"""Commands that ask about a model: ``niwaki space``, ``niwaki check``, ``niwaki latency``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from niwaki.outputs import Json, stdout, stdout_for_results
from niwaki.subjects import in_double, subject

# torch and the rest of niwaki are imported inside the commands: `niwaki --help` should not wait for them

ModelArgument = Annotated[str, typer.Argument(
    metavar="MODEL", help="resnet50, cifar_resnet20, any torchvision model, or package.module:function.")]
InputShape = Annotated[str | None, typer.Option(
    "--input", metavar="SHAPE", help="Shape of an input, batch first: 1,3,224,224. Default: the model's usual.")]
ExampleOf = Annotated[str | None, typer.Option(
    "--example", metavar="MODULE:FUNCTION", help="Function that returns the inputs: token ids, several tensors.")]
Classes = Annotated[int, typer.Option(min=1, help="Outputs of a classifier.")]


def space(  # noqa: PLR0913 - the options of a command
    model: ModelArgument,
    *,
    input_: InputShape = None, example_: ExampleOf = None, classes: Classes = 1000,
    keep: Annotated[list[str] | None, typer.Option(
        metavar="PATTERN", help="Groups or modules that stay whole: 'layer1.*'. May be repeated.")] = None,
    tie: Annotated[list[str] | None, typer.Option(
        metavar="PATTERN,...", help="Groups that keep equally many units. May be repeated.")] = None,
    step: Annotated[int, typer.Option(min=1, help="Widths are multiples of it.")] = 1,
    ratios: Annotated[str | None, typer.Option(
        metavar="R,...", help="Widths on offer as fractions of the full one: 0.25,0.5,0.75.")] = None,
    as_json: Json = False,
) -> None:
    """Show what may be cut in a model, what may not, and why.

    The options are those of the section `space` of a configuration, which also takes `widths` and `sparsity`.
    """
    from niwaki.spaces import SpaceOptions, derive, explain

    options = SpaceOptions(step=step, keep=keep or [], tie=[entry.split(",") for entry in tie or []])
    if ratios is not None:
        options = replace(options, ratios=_numbers(ratios, "--ratios"))
    with stdout_for_results():
        network, example = subject(model, input_, classes, example_)
        found = explain(derive(network, example, options))
    if as_json:
        typer.echo(json.dumps({"schema": 1, "model": model, **found.to_json()}, indent=2))
        return
    from niwaki import tables

    stdout().print(tables.space(model, found))


def _numbers(given: str, flag: str) -> list[float]:
    try:
        return [float(part) for part in given.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{given!r}: expected numbers such as 0.25,0.5", param_hint=flag) from None


def check(  # noqa: PLR0913 - the options of a command
    model: ModelArgument,
    *,
    input_: InputShape = None, example_: ExampleOf = None, classes: Classes = 1000,
    seeds: Annotated[int, typer.Option(min=1, help="Random candidates to prove.")] = 1,
    exact: Annotated[bool, typer.Option(
        "--float64/--float32", help="Prove to 1e-9 in float64, or to 1e-4 in the precision it runs in.")] = True,
    as_json: Json = False,
) -> None:
    """Prove on a model that Niwaki cuts it right: random candidates, property by property.

    Weights do not matter to the proofs: the network is built untrained. Exit code 1 where a proof fails.
    """
    from niwaki.spaces import derive
    from niwaki.spaces.check import check as prove
    from niwaki.spaces.errors import InputError

    with stdout_for_results():
        network, example = subject(model, input_, classes, example_)
        ready, given = (network.double(), in_double(example)) if exact else (network, example)
        try:
            derived = derive(ready, given)
        except InputError as error:
            if not exact:
                raise
            raise InputError(f"{error}\nCode that makes float32 tensors cannot run in float64: try --float32") from None
        proofs = prove(ready, derived, seeds)
    if as_json:
        rows = [{"name": p.name, "says": p.says, "held": p.held, "detail": p.detail} for p in proofs]
        typer.echo(json.dumps({"schema": 1, "model": model, "proofs": rows}, indent=2))
    else:
        from niwaki import tables

        stdout().print(tables.proofs(model, proofs))
    if not all(p.held for p in proofs):
        raise typer.Exit(1)


def latency(  # noqa: PLR0913 - the options of a command
    model: ModelArgument,
    *,
    target: Annotated[str, typer.Option(
        metavar="SPEC", help="RUNTIME:key=value,... with runtime torch, torch-compile, onnxruntime or cuda, such as "
        "onnxruntime:threads=4,batch=8.")] = "torch:threads=1,batch=1",
    samples: Annotated[int, typer.Option(min=4, help="Candidates measured to fit the model.")] = 48,
    check: Annotated[int, typer.Option(min=0, help="Further candidates measured to check it.")] = 8,
    input_: InputShape = None, example_: ExampleOf = None, classes: Classes = 1000,
    to: Annotated[Path | None, typer.Option(metavar="FILE", help="Keep the fitted model as JSON.")] = None,
    as_json: Json = False,
) -> None:
    """Calibrate the latency model of a network on a target, and check it on candidates it has not seen."""
    from niwaki import timing
    from niwaki.search.targets import parse

    where = parse(target)
    if to is not None and to.exists():
        raise typer.BadParameter(f"{to} exists already; nothing is overwritten", param_hint="--to")
    if to is not None and not to.absolute().parent.is_dir():
        raise typer.BadParameter(f"{to.parent} is no folder", param_hint="--to")
    with stdout_for_results():
        network, example = subject(model, input_, classes, example_)
        checked = timing.calibrate_and_check(network, example, where, samples, check)
    if to is not None:
        to.write_text(json.dumps(checked.model.to_json(), indent=2) + "\n", encoding="utf-8")
    if as_json:
        typer.echo(json.dumps({"schema": 1, "model": model, **checked.to_json()}, indent=2))
    else:
        stdout().print(timing.table(model, checked))
