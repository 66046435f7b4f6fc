"""The command line on a real, very small run: what is printed where, exit codes, and messages."""

import csv
import io
import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout

import pytest
import torch

from niwaki import cli

QUICK = [
    "--runner", "local", "--trials", "2", "--set", "train.rungs=[200]", "--set", "train.final_images=400",
    "--set", "teacher.train.images=1500", "--set", "search.members=1", "--set", "search.levels=[1.0]",
    "--set", "export.formats=[safetensors]", "--set", "latency.target=null", "--set", "budget.latency=null",
    "--set", "space.sparsity=[]", "--set", "train.views=1", "--macs", "50%",
]


def call(*arguments):
    """Exit code, stdout and stderr of one command."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as exit_:
        cli.main([str(a) for a in arguments])
    return exit_.value.code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run, with what its command printed."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    code, out, err = call("search", "quickstart", "--to", folder, *QUICK, "--json")
    assert code == 0, err
    return folder, out, err


def test_search_prints_json_alone_on_stdout(run):
    folder, out, err = run
    result = json.loads(out)
    assert result["folder"] == str(folder)
    assert result["members"]
    assert all(m["cost"]["macs"] <= 0.5 * result["teacher"]["cost"]["macs"] for m in result["members"])
    assert "starting quickstart" in err
    assert "2/2" in err
    assert "on the front" in err


def test_front_shows_the_same_members_as_table_json_and_csv(run):
    folder, out, _ = run
    members = json.loads(out)["members"]
    code, shown, _ = call("front", folder)
    assert code == 0
    rows = [line.split() for line in shown.splitlines()]
    assert [row[0] for row in rows] == ["model", *(m["name"] for m in members), "teacher"]
    assert rows[1][1] == f"{100 * members[0]['metrics']['accuracy']:.1f}%"
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert json.loads(call("front", folder, "--json")[1])["members"] == members
    table = list(csv.DictReader(io.StringIO(call("front", folder, "--csv")[1])))
    assert [(row["name"], int(row["macs"])) for row in table] == [(m["name"], m["cost"]["macs"]) for m in members]


def test_export_writes_a_verified_model(run, tmp_path):
    folder = run[0]
    options = ["--macs", "50%", "--format", "safetensors", "--json"]
    code, out, err = call("export", folder, *options, "--to", tmp_path / "a")
    assert code == 0, err
    assert json.loads(out) == json.loads((tmp_path / "a" / "card.json").read_text())
    assert (tmp_path / "a" / "model.safetensors").is_file()
    before = {p: p.read_bytes() for p in (tmp_path / "a").iterdir()}
    code, out, err = call("export", folder, "--to", tmp_path / "a")
    assert (code, out) == (2, "")
    assert "exists already" in err
    assert {p: p.read_bytes() for p in (tmp_path / "a").iterdir()} == before


def test_export_writes_python_on_request(run, tmp_path):
    code, out, err = call("export", run[0], "--format", "python", "--json", "--to", tmp_path / "p")
    assert code == 0, err
    names = ["card.json", "model.py", "model.weights.safetensors"]
    assert sorted(p.name for p in (tmp_path / "p").iterdir()) == names
    assert json.loads(out)["formats"]["python"]["error"] <= 1e-4


def test_export_pads_on_request(run, tmp_path):
    options = ["--format", "safetensors", "--pad"]
    code, out, err = call("export", run[0], *options, 7, "--to", tmp_path / "z")
    assert code == 0, err
    card = json.loads((tmp_path / "z" / "card.json").read_text())
    assert card["padded"]
    changes = ", ".join(f"{n} {a} -> {b}" for n, (a, b) in card["padded"].items())
    assert out.splitlines()[-1] == f"padded with zeros: {changes}"
    for wrong in ("many", "0"):
        code, out, err = call("export", run[0], *options, wrong, "--to", tmp_path / "y")
        assert (code, out) == (2, "")
        assert f"pad: expected a whole number of at least 1, such as 16, or auto; got '{wrong}'" in err
    code, out, err = call("export", run[0], *options, "auto", "--to", tmp_path / "y")
    assert code == 2
    assert "no latency.target" in err


def test_export_of_a_budget_nobody_meets_names_the_nearest(run, tmp_path):
    code, out, err = call("export", run[0], "--size", "10B", "--to", tmp_path / "b")
    assert (code, out) == (2, "")
    assert "the nearest, m1, has size" in err
    assert not (tmp_path / "b").exists()


def test_report_is_written_where_asked(run, tmp_path):
    code, out, _ = call("report", run[0], "--to", tmp_path / "r.html")
    assert (code, out.strip()) == (0, str(tmp_path / "r.html"))
    assert "quickstart" in (tmp_path / "r.html").read_text()


def test_resume_of_a_finished_run_ends_with_the_same_front(run):
    code, out, err = call("resume", run[0], "--json")
    assert code == 0
    assert json.loads(out)["members"] == json.loads(run[1])["members"]
    assert "continuing quickstart" in err


def test_a_run_folder_that_exists_is_not_touched(run):
    before = {p: p.stat().st_mtime_ns for p in run[0].rglob("*")}
    code, out, err = call("search", "quickstart", "--to", run[0], *QUICK)
    assert (code, out) == (2, "")
    assert "niwaki resume" in err
    assert {p: p.stat().st_mtime_ns for p in run[0].rglob("*")} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "quickstar"], "did you mean 'quickstart'"),
        (["search", "quickstart", "--set", "train.learning=1"], "unknown key"),
        (["search", "quickstart", "--runner", "tun"], "did you mean 'tune'"),
        (["search", "quickstart", "--latency", "3 parsecs"], "latency"),
        (["front", "no/such/run"], "no/such/run"),
        (["space", "resnet19"], "did you mean 'resnet18'"),
        (["latency", "small_cnn", "--target", "torhc"], "did you mean 'torch'"),
    ],
)
def test_wrong_input_is_exit_2_with_one_clear_message(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("niwaki: ")
    assert message in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serch"], "search"), (["search", "quickstart", "--trails", "3"], "--trials"),
        (["space", "small_cnn", "--input", "1,x"], "1,3,224,224"),
        (["search", "quickstart", "--trials", "0"], "greater than or equal to 1"),
        (["front", "x", "--json", "--csv"], "exclude each other"),
    ],
)
def test_mistyped_commands_suggest_what_was_meant(arguments, message):
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_interrupting_says_how_to_go_on(monkeypatch, tmp_path):
    from niwaki.search import controller, events

    def stopped(config, listener):
        listener(events.RunStarted(tmp_path / "run", "quickstart", resumed=False, kept=0))
        raise KeyboardInterrupt

    monkeypatch.setattr(controller, "search", stopped)
    code, out, err = call("search", "quickstart", "--to", tmp_path / "run")
    assert (code, out) == (130, "")
    assert "before anything was written" in err
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("")
    code, out, err = call("search", "quickstart", "--to", tmp_path / "run")
    assert (code, out) == (130, "")
    assert f"niwaki resume {tmp_path / 'run'}" in err


def test_a_failed_run_is_exit_1(monkeypatch, tmp_path):
    from niwaki.search import controller
    from niwaki.search.phases import RunError

    def failing(config, listener):
        print("a library's chatter")
        raise RunError("all trials failed")

    monkeypatch.setattr(controller, "search", failing)
    code, out, err = call("search", "quickstart", "--to", tmp_path / "run")
    assert (code, out) == (1, "")
    assert "niwaki: all trials failed" in err
    assert "chatter" in err


def test_space_prints_a_table_or_json():
    code, out, _ = call("space", "small_cnn", "--classes", "10", "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["schema"], found["model"]) == (1, "small_cnn")
    assert {g["units"] for g in found["groups"]} == {16, 32, 64}
    assert [(f["reason"], f["where"].split(":")[0]) for f in found["fixed"]] == [("feeds the output", "small_cnn.py")]
    code, out, _ = call("space", "small_cnn", "--classes", "10")
    assert code == 0
    for group in found["groups"]:
        assert group["name"] in out
    assert "feeds the output (small_cnn.py:" in out
    assert f"{100 * found['cuttable_macs']:.0f} % of the MACs" in out


def test_space_takes_the_options_of_a_configuration():
    names = [g["name"] for g in json.loads(call("space", "small_cnn", "--json")[1])["groups"] if g["units"] == 64]
    options = ["--keep", "stage1.0.0", "--tie", ",".join(names), "--step", "8", "--ratios", "0.3,0.5"]
    code, out, err = call("space", "small_cnn", "--json", *options)
    assert code == 0, err
    found = json.loads(out)
    assert "stage1.0.0" in [f["name"] for f in found["fixed"] if f["reason"] == "kept on request"]
    tied = {g["name"]: g for g in found["groups"] if g["tied"]}
    assert set(tied) == set(names)
    assert all(g["choices"] == [16, 32, 64] for g in tied.values())
    code, out, _ = call("space", "small_cnn", *options)
    assert code == 0
    assert out.count(" =1") >= len(names)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tie", "nothing"], "space.tie: 'nothing' matches no group"),
        (["--tie", "stage3.0.0"], "alone"),
        (["--keep", "stag3"], "did you mean 'stage3'"),
        (["--ratios", "0.5,x"], "0.25,0.5"),
        (["--ratios", "2"], "fractions"),
    ],
)
def test_space_names_options_that_fit_nothing(options, message):
    code, out, err = call("space", "small_cnn", *options)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_check_proves_a_model():
    code, out, _ = call("check", "small_cnn", "--classes", "10", "--json")
    proofs = json.loads(out)["proofs"]
    assert code == 0
    assert {p["name"] for p in proofs if p["held"]} >= {"largest", "masked", "cost", "export", "untouched"}
    assert all(p["held"] for p in proofs)
    code, out, _ = call("check", "small_cnn", "--classes", "10", "--float32")
    assert code == 0
    assert "all 9 proofs held" in out


def test_check_says_what_failed(monkeypatch):
    from niwaki.spaces import check as module

    monkeypatch.setattr(module, "count", lambda *_: module.Cost(1, 2, 3))
    code, out, _ = call("check", "small_cnn", "--classes", "10")
    assert code == 1
    assert "FAILED" in out
    assert "1 of 9 proofs failed" in out


def token_ids():
    return torch.randint(0, 9, (2, 4), generator=torch.Generator().manual_seed(0))


def token_model():
    return torch.nn.Sequential(torch.nn.Embedding(9, 8), torch.nn.Linear(8, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3))


def test_a_model_of_the_users_own_with_inputs_of_its_own():
    spec, inputs = f"{__name__}:token_model", f"{__name__}:token_ids"
    code, out, _ = call("space", spec, "--example", inputs, "--json")
    assert code == 0
    assert {g["name"] for g in json.loads(out)["groups"]} == {"0", "1"}
    assert call("check", spec, "--example", inputs)[0] == 0
    code, _, err = call("check", spec, "--example", f"{__name__}:token_model")
    assert code == 2
    assert "returned a Sequential, not a tensor" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search"], "give a configuration"),
        (["search", "--from", "nowhere"], "--name or --to"),
        (["search", "--from", "nowhere", "--to", "x"], "nowhere/config.yaml"),
        (["compare", "quickstart", "--proposers", "ramdom"], "did you mean 'random'"),
    ],
)
def test_what_cannot_be_begun_is_named(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert message in " ".join(err.replace("│", " ").split())
    assert not any(tmp_path.iterdir())


class MakesFloat32(torch.nn.Conv1d):
    def forward(self, x):
        return super().forward(x.float())


def float32_model():
    return torch.nn.Sequential(MakesFloat32(4, 8, 1), torch.nn.ReLU(), torch.nn.Conv1d(8, 2, 1))


def two_rows():
    return torch.randn(2, 4, 3)


def test_check_names_the_way_out_for_models_that_cannot_run_in_float64():
    spec, inputs = f"{__name__}:float32_model", f"{__name__}:two_rows"
    code, _, err = call("check", spec, "--example", inputs)
    assert code == 2
    assert "--float32" in err
    assert call("check", spec, "--example", inputs, "--float32")[0] == 0


def test_latency_calibrates_and_checks(tmp_path):
    to = tmp_path / "latency.json"
    arguments = ["small_cnn", "--classes", "10", "--samples", "6", "--check", "2", "--to", to, "--json"]
    code, out, err = call("latency", *arguments)
    assert code == 0, err
    found = json.loads(out)
    assert len(found["checked"]) == 2
    assert all(row["predicted_ms"] > 0 and row["measured_ms"] > 0 for row in found["checked"])
    assert json.loads(to.read_text()) == found["latency_model"]
    assert len(found["latency_model"]["samples"]) == 6


def test_help_neither_needs_torch_nor_ray():
    code = (
        "import sys\nfrom niwaki import cli\n"
        "try:\n    cli.main(['--help'])\nexcept SystemExit as stop:\n    assert stop.code == 0\n"
        "loaded = {'torch', 'ray', 'onnx', 'plotly'} & set(sys.modules)\nassert not loaded, loaded\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("search", "resume", "front", "export", "report", "space", "latency"):
        assert command in done.stdout


def test_version():
    code, out, _ = call("--version")
    assert code == 0
    assert out.startswith("niwaki ")
