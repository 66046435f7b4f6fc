from pathlib import Path

import pytest

from niwaki.search.checks import check_choices
from niwaki.search.config import load_config, packaged_configs, parse_config, to_yaml
from niwaki.search.context import space_options
from niwaki.spaces import InputError, SpaceOptions

GOOD = "budget: {macs: 50%}\n"

WRONG = {
    "train.lrr=3": ["--set train.lrr=3", "train.lrr", "'lr'"],
    "trian.lr=3": ["trian", "'train'"],
    "train.lr=abc": ["train.lr", "'abc'", "number"],
    "train.rungs=[5,3]": ["train", "ascend", "[5, 3]"],
    "train.final_images=7": ["final_images", "7", "6000"],
    "search.trials=0": ["search.trials", "greater than or equal to 1"],
    "search.levels=[1.5]": ["search.levels", "1.5", "less than or equal to 1"],
    "search.starts=[uniform, magnitud]": ["search.starts", "'magnitud'", "did you mean 'magnitude'"],
    "search.baselines=[uniform, best]": ["search.baselines", "'best'", "'uniform' or 'random'"],
    "run.device=tpu": ["run.device", "'tpu'", "'cuda'"],
    "run.runner.x=3": ["run.runner", "should be a valid string"],
    "train.lr.x=3": ["train.lr", "valid number"],
    "budget.macs.x=3": ["budget.macs is '50%', not a section"],
    "budget={}": ["budget", "at least one of latency, macs, params, size"],
    "search": ["--set search", "section.key=value"],
    "space.step=0": ["space.step", "0", "whole number >= 1"],
    "space.step={'layer1.*': 2.5}": ["space.step", "2.5", "pattern: number"],
    "space.keep=layer1": ["space.keep", "'layer1'", "tuple"],
    "space.tie=[[a, 3]]": ["space.tie.0.1", "3", "string"],
    "space.tie=[[]]": ["space.tie.0", "at least 1"],
    "space.widths={a: [1.5]}": ["space.widths.a", "1.5", "units (1, 2, ...) or ratios in (0, 1]"],
    "space.widths={a: [true]}": ["space.widths.a", "got True"],
    "space.widths={a: []}": ["space.widths.a", "list of widths"],
    "space.widths=[8]": ["space.widths", "[8]", "dictionary"],
    "space.ties=[a]": ["space.ties", "'tie'"],
    "train={": ["--set train={", "not valid YAML"],
}

UNKNOWN = {
    "search.proposer=nsga": ["nsga", "nsga2"],
    "search.options={populaton: 8}": ["search.options", "populaton", "population"],
    "search.options={population: many}": ["search.options.population", "many"],
    "criterion.name=l3": ["l3", "l1"],
    "criterion.options={seed: 1}": ["criterion.options", "seed"],
    "train.loss=hintn": ["hintn", "hinton"],
    "train.loss_options={temprature: 2}": ["temprature", "temperature"],
    "train.augment=crop_flop": ["train.augment", "crop_flop", "crop_flip"],
    "run.runner=ray": ["ray", "tune"],
    "latency.target=torhc": ["torhc", "torch"],
    "export.formats=[onx]": ["onx", "onnx"],
    "space.sparsity=[half]": ["half", "2:4"],
    "budget.macs=50 percent": ["macs", "50 percent"],
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(GOOD)
    return path


@pytest.mark.parametrize("override", WRONG)
def test_wrong_values_name_key_value_and_what_is_valid(file: Path, override: str) -> None:
    with pytest.raises(InputError) as error:
        load_config(file, [override])
    for part in WRONG[override]:
        assert part in str(error.value)


@pytest.mark.parametrize("override", UNKNOWN)
def test_unknown_choices_are_found_before_anything_runs(file: Path, override: str) -> None:
    config = load_config(file, [override])
    with pytest.raises(InputError) as error:
        check_choices(config)
    for part in UNKNOWN[override]:
        assert part in str(error.value)


def test_a_wrong_value_in_a_file_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("budget: {mac: 50%}\n")
    with pytest.raises(InputError, match=r"mine\.yaml: budget\.mac: unknown key; did you mean 'macs'"):
        load_config(path)


@pytest.mark.parametrize(("text", "message"), [
    ("- 1\n", "expected sections"), ("a: [", "not valid YAML"),
    ("search: {trials: 1}\n", "budget: this key is required"),
    ("budget: {macs: 1}\nbudget: {macs: 2}\n", "appears twice"), ("", "expected sections"),
])
def test_files_that_are_no_configuration(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        load_config(path)


def test_missing_files_and_names(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such configuration file"):
        load_config(tmp_path / "quickstart.yaml")
    with pytest.raises(InputError, match="did you mean 'quickstart'"):
        load_config("quikstart")


def test_overrides_are_yaml_and_the_last_one_wins(file: Path) -> None:
    config = load_config(file, ["train.rungs=[10, 20]", "train.lr=1e-3", "train.lr=2e-3", "budget.size=2MB"])
    assert (config.train.rungs, config.train.lr) == ((10, 20), 2e-3)
    assert (config.budget.size, config.budget.macs) == ("2MB", "50%")


def test_the_resolved_configuration_reads_back_the_same(tmp_path: Path) -> None:
    config = load_config("quickstart", ["space.sparsity=[0.5]", "budget.latency=3"])
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config))
    assert load_config(path) == config
    assert (config.space.sparsity, config.budget.latency) == (("0.5",), "3")


def test_widths_steps_and_ties_read_back_as_they_were_written(tmp_path: Path) -> None:
    """1 is one unit and 1.0 all of them: the file in the run folder must keep them apart."""
    path = tmp_path / "run.yaml"
    path.write_text(
        GOOD + "space: {keep: [stem], tie: [a*, [b, c]], widths: {d: [1, 8, 0.5], 'e*': [1.0]}, step: {'f*': 8}}\n"
    )
    config = load_config(path)
    options = space_options(config)
    assert options == SpaceOptions(
        ratios=config.space.ratios, keep=["stem"], tie=["a*", ["b", "c"]],
        widths={"d": [1, 8, 0.5], "e*": [1.0]}, step={"f*": 8},
    )  # fmt: skip
    again = tmp_path / "config.yaml"
    again.write_text(to_yaml(config))
    assert load_config(again) == config
    read = space_options(load_config(again)).widths
    assert [type(w) for w in (*read["d"], *read["e*"])] == [int, int, float, float]
    assert load_config(path, ["space.tie=[[g, h]]", "space.step=4"]).space.tie == (("g", "h"),)


def test_a_configuration_is_frozen(file: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_config(file).train.lr = 1.0


@pytest.mark.parametrize("name", packaged_configs())
def test_packaged_configurations_hold_only_what_exists(name: str) -> None:
    check_choices(load_config(name))


def test_the_mapping_given_is_not_changed() -> None:
    tree = {"budget": {"macs": "50%"}}
    parse_config(tree, "here", ["budget.macs=60%", "train.lr=1"])
    assert tree == {"budget": {"macs": "50%"}}
