"""The reproduction: its recipes are right, its runner starts them, its page shows what the records say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from matplotlib import pyplot as plt
from reproduce import detection, finetuning, latency, models, results, transfer
from reproduce import run as runner
from training.runs import SMALL, run, write

import fxprune
from fxprune.plans import Cost
from fxprune.training.recipe.file import read_recipe
from fxprune.training.record import Record, read_record

RECIPES = sorted(path for path in runner.RECIPES.glob("resnet*.yaml"))
# Images of CIFAR-10's test set that are looked at, and how far their accuracy may be from that of all.
SEEN, SAMPLING = 1000, 0.02


def timed(name: str, median_ms: float, speedup: float) -> dict[str, object]:
    """A row of a benchmark, as JSON."""
    figures = {"median_ms": median_ms, "speedup": speedup, "macs": 19_300_000}
    return {"name": name, "speedup_low": speedup - 0.01, "speedup_high": speedup + 0.01, **figures}


@pytest.fixture(scope="module")
def record() -> Record:
    return Record(
        name="resnet20_dwgl",
        recipe={"seed": 0, "sparse": {"lr": 0.01}, "finetune": {"lr": 0.02}},
        accuracy={"dense": 0.9173, "sparse": 0.91, "pruned": 0.85, "finetuned": 0.9121},
        evaluated_on="test",
        dense=Cost(270_000, 40_600_000),
        slim=Cost(120_000, 19_300_000),
        decided=0.475,
        epochs={"sparse": 16, "finetune": 24},
        seconds={"sparse": 600.0, "finetune": 660.0, "evaluate": 50.0},
        method={"overhead": 0.012},
        latency_ms={"dense": 3.0, "slim": 2.0},
        bench={"rows": [timed("dense", 3.0, 1.0), timed("slim", 2.0, 1.53)]},
        machine={
            "cpu": "A CPU",
            "cores": 2,
            "capability": "AVX512",
            "torch": "2",
            "onnxruntime": "1",
            "python": "3",
        },
        device="cpu, 2 threads, bf16",
        proof="",
    )


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Changes that name files of a fresh clone, too: recipes are read, and no image is looked at."""
    folder = tmp_path_factory.mktemp("elsewhere")
    names = {"weights": "w.safetensors", "data.train": "train.npz", "data.test": "test.npz"}
    for name in names.values():
        (folder / name).touch()
    return tuple(f"{key}={folder / name}" for key, name in names.items())


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_are_right(path: Path, elsewhere: tuple[str, ...]) -> None:
    recipe = read_recipe(path, elsewhere).recipe
    assert recipe.epochs is not None
    assert recipe.epochs_of("sparse") + recipe.epochs_of("finetune") == recipe.epochs  # one budget for all
    assert recipe.budget is not None
    # The planner may exceed a budget by half a percent of the dense cost; the goal holds all the same.
    assert recipe.budget.macs + 0.005 <= goal(path.stem)


@pytest.mark.parametrize("arm", finetuning.arms(), ids=lambda arm: arm.key)
def test_ways_to_fine_tune_are_recipes(arm: finetuning.Arm, elsewhere: tuple[str, ...]) -> None:
    recipe = read_recipe(finetuning.RECIPE, [*elsewhere, *arm.asked(1)]).recipe
    assert recipe.seed == 1
    assert recipe.epochs_of("sparse") == 0
    steps = recipe.steps_of("finetune", finetuning.STEPS)
    assert steps == round(finetuning.LENGTHS[arm.length] * finetuning.STEPS)
    plain = read_recipe(
        finetuning.RECIPE, [*elsewhere, *finetuning.Arm(arm.start, arm.length, arm.lr).asked(1)]
    )
    assert (recipe == plain.recipe) == (not arm.extra)


def test_pictures_of_shapes() -> None:
    one, two = detection.Pictures.drawn(20, 3), detection.Pictures.drawn(20, 3)
    assert all(torch.equal(a, b) for a, b in zip(one.images, two.images, strict=True))
    boxes = torch.cat([target["boxes"] for target in one.targets])
    labels = torch.cat([target["labels"] for target in one.targets])
    assert boxes.min() >= 0 and boxes.max() <= detection.SIDE and (boxes[:, 2:] - boxes[:, :2] >= 12).all()
    assert set(labels.tolist()) == {1, 2, 3}
    image, target = one.images[0], one.targets[0]
    flipped = detection._mirrored(*detection._mirrored(image, target, flip=True), flip=True)
    assert torch.equal(flipped[0], image)
    assert torch.allclose(flipped[1]["boxes"], target["boxes"], atol=1e-5)


@pytest.mark.parametrize("way", ["SSR-L2,1 (AULM)", "magnitude, one shot"])
def test_a_detector_is_trained_and_slimmed(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detection, "BATCH", 4)
    monkeypatch.setattr(detection, "precision", lambda model, data: (float(len(model(data.images[:1]))), 0.0))
    data = detection.Pictures.drawn(4, 0)
    row = detection.run(way, 0, detection.detector(0), data, data)
    assert row["kind"] == "recorded"
    assert float(str(row["macs"])) <= detection.KEPT + 0.005
    assert row["after"] == (1.0, 0.0)


def test_no_two_ways_to_fine_tune_are_called_alike() -> None:
    keys = [arm.key for arm in finetuning.arms()]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("way", transfer.WAYS)
@pytest.mark.parametrize("domain", transfer.DOMAINS)
def test_transfers_are_recipes(domain: str, way: str) -> None:
    recipe = read_recipe(transfer.RECIPE, [*transfer.DOMAINS[domain], *transfer.WAYS[way]]).recipe
    assert recipe.epochs_of("sparse") + recipe.epochs_of("finetune") == recipe.epochs == 15
    assert (recipe.data.inverted, recipe.data.noise) != (False, 0)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_find_their_data(path: Path, shared: Path) -> None:
    recipe = read_recipe(path).recipe
    assert Path(recipe.data.test).resolve().is_relative_to(shared.resolve())


def goal(name: str) -> float:
    """MACs that may be kept."""
    if name.startswith("resnet20"):
        return 0.48
    return {"50": 0.5, "75": 0.25, "gal": 0.626}[name.rpartition("_")[2]]


def test_every_method_has_a_recipe_and_a_label() -> None:
    from fxprune.regularizers.registry import METHODS

    named = {path.stem.partition("_")[2].removesuffix("_50").removesuffix("_75") for path in RECIPES}
    assert named == set(results.LABELS)
    texts = "".join(path.read_text() for path in RECIPES)
    assert [
        name
        for name in (info.name for info in METHODS)
        if f"name: {name}" not in texts and f"method: {name}" not in texts
    ] == []


@pytest.mark.parametrize(
    ("make", "macs", "params"),
    [
        # 125.49 M MACs and 0.85 M parameters are published for ResNet-56, 40.6 M and 0.27 M for ResNet-20.
        (models.resnet56, 125.49e6, 0.853e6),
        (models.resnet20, 40.55e6, 0.270e6),
    ],
)
def test_costs_of_the_nets(make: object, macs: float, params: float) -> None:
    assert callable(make)
    trace = fxprune.trace(make(), torch.zeros(1, 3, 32, 32))
    dense = fxprune.plan(trace, fxprune.Budget(macs=0.5), align=1).dense
    assert dense.macs == pytest.approx(macs, rel=2e-3)
    assert dense.params == pytest.approx(params, rel=2e-3)


def test_the_nets_fit_their_weights(shared: Path) -> None:
    from fxprune.models.weights import load_weights
    from fxprune.training.data.batches import Batches, Look
    from fxprune.training.data.images import read_npz

    net = models.resnet20().eval()
    load_weights(net, shared / "weights" / "cifar10_resnet20.safetensors")
    images = read_npz([shared / "data" / "cifar10" / "test.npz"]).subset(torch.arange(SEEN) * 10)
    recipe = read_recipe(runner.RECIPES / "resnet20_magnitude.yaml").recipe
    look = Look.of(recipe.data.mean, recipe.data.std, channels_last=True, device=torch.device("cpu"))
    with torch.no_grad():
        right = [net(x).argmax(1) == y for x, y, _ in Batches(images, look, 250, 0).evaluation()]
    assert torch.cat(right).double().mean().item() == pytest.approx(0.9173, abs=SAMPLING)


def test_jobs_scale_what_counts_steps(elsewhere: tuple[str, ...]) -> None:
    own = {job.name: job for job in runner.jobs(["resnet20_*"], None, elsewhere)}
    assert set(own) == {path.stem for path in RECIPES if path.stem.startswith("resnet20")}
    assert own["resnet20_greg1"].changes == elsewhere
    [short] = runner.jobs(["resnet20_greg1"], 10, ["seed=3", *elsewhere])
    assert short.name == "resnet20_greg1-10"
    assert short.changes == ("seed=3", *elsewhere, "epochs=10", "method.delta=0.0084")
    assert short.command(Path("out"))[-4:] == ["--set", "epochs=10", "--set", "method.delta=0.0084"]
    [longer] = runner.jobs(["resnet20_ssr_l20"], 40, elsewhere)
    assert longer.changes == (*elsewhere, "epochs=40", "method.period=200")  # a threshold stays what it is
    assert [job.name for job in runner.jobs(["resnet20_dwgl"], None, elsewhere)] == ["resnet20_dwgl"]
    assert {job.name for job in runner.jobs(["56*dwgl*"], None, elsewhere)} == {
        "resnet56_dwgl_50",
        "resnet56_dwgl_75",
    }


def test_finished_runs_are_skipped_and_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = write(tmp_path, sparse={"epochs": 0}, finetune={"epochs": 0})
    monkeypatch.setattr(runner, "RECORDS", tmp_path / "records")
    job = runner.Job("small", recipe, ())
    monkeypatch.setattr(runner.subprocess, "run", lambda *_a, **_k: _Ended(1))
    assert not runner.run(job, tmp_path / "runs")
    made = run(recipe, tmp_path / "runs" / "small")
    assert runner.run(job, tmp_path / "runs")  # without starting anything
    assert read_record(tmp_path / "records" / "small.json") == made
    assert str(tmp_path) not in (tmp_path / "records" / "small.json").read_text()
    assert made.recipe["data"] == {**made.recipe["data"], "source": SMALL["data"]["source"]}


class _Ended:
    def __init__(self, returncode: int) -> None:
        self.returncode = returncode


def test_the_page(record: Record) -> None:
    scratch = replace(
        record,
        name="resnet20_scratch",
        accuracy={"dense": 0.9173, "pruned": 0.1, "finetuned": 0.9},
        decided=None,
        method={},
        epochs={"sparse": 0, "finetune": 40},
        resumed=2,
    )
    large = replace(record, name="resnet56_gal", latency_ms={}, bench=None, notes=("a note",))
    large = replace(large, method={"blocks_gone": 0.037})
    page = results.render([scratch, large, record], {})
    first, second = page.split("## ResNet-56, 40 epochs in all")
    assert "## ResNet-20, 40 epochs in all" in first
    assert "![error increase by method](results.png)" in first
    assert "| DWGL | 52.5 % | 91.73 | 91.00 | 85.00 | 91.21 | +0.52 | 47.5 % |" in first
    assert "| from scratch | 52.5 % | 91.73 | – | 10.00 | 90.00 | +1.73 | – |" in first
    assert first.index("| DWGL | 52.5") < first.index("| from scratch | 52.5")  # the best first
    assert (
        "| DWGL | 40.6 M -\\> 19.3 M | 270 k -\\> 120 k | 3.00 -\\> 2.00 | 1.53 | 16 + 24 | 0.01 + 0.02 | 0 | 21.0 | 1.2 % |"
        in first
    )
    assert "- from scratch was continued 2 times." in first
    assert first.count("A CPU, 2 cores") == 1
    assert "| SCOP | 55.7 % | 92.22 | 90.75 | +1.47 |" in first
    assert "| – | – | 16 + 24 |" in second
    assert "- GAL: a note." in second
    assert "- GAL: 4 % of the masks on blocks were zero by themselves." in second
    assert "A short schedule" not in page
    assert "**A short schedule**" in results.render(
        [replace(record, epochs={"sparse": 1, "finetune": 2})], {}
    )
    assert results.render([], {}).endswith("There is no record yet.\n")


def test_latencies_side_by_side(record: Record) -> None:
    """What was measured beside the other rows counts, unless it was of another model."""
    other = replace(record, name="resnet20_gal", slim=Cost(130_000, 20_000_000))
    where = {"machine": {"cpu": "B CPU", "capability": "AVX2", "onnxruntime": "9"}, "rounds": 7, "threads": 1}
    rows = [timed("dense", 5.0, 1.0), timed("resnet20_dwgl", 4.0, 1.25), timed("resnet20_gal", 1.0, 5.0)]
    page = results.render([record, other], {"resnet20": {**where, "rows": rows}})
    assert "| 5.00 -\\> 4.00 | 1.25 (1.24..1.26) | 16 + 24 |" in page
    assert "| 3.00 -\\> 2.00 | 1.53 | 16 + 24 |" in page
    assert "one interleaved run of 7 rounds (`tools/reproduce/latency.py`), B CPU, AVX2, 1 thread" in page
    assert "- Latency of GAL: measured as the run ended." in page


def test_latency_takes_the_files_that_belong_to_the_records(tmp_path: Path) -> None:
    rows, runs = tmp_path / "records", tmp_path / "runs"
    rows.mkdir()
    for seed in (0, 1):
        recipe = write(tmp_path, sparse={"epochs": 0}, finetune={"epochs": 0}, export=True, seed=seed)
        run(recipe, runs / f"small_{seed}")
    for number in ("0", "1"):
        text = (runs / "small_0" / "record.json").read_text()
        (rows / f"small_{number}.json").write_text(text)  # the second is of another run
    chosen = latency.models("small", runs, rows)
    assert chosen == {
        "dense": runs / "small_0" / "dense.onnx",
        "small_0": runs / "small_0" / "slim.onnx",
    }
    assert latency.models("large", runs, rows) == {}


def test_a_page_that_is_stale_is_noticed(
    record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.json").write_text(record.to_json())
    out = tmp_path / "R.md"
    arguments = ["results.py", "--records", str(tmp_path), "--out", str(out)]
    monkeypatch.setattr("sys.argv", [*arguments, "--check"])
    assert results.main() == 1
    monkeypatch.setattr("sys.argv", arguments)
    assert results.main() == 0
    monkeypatch.setattr("sys.argv", [*arguments, "--check"])
    assert results.main() == 0
    assert "stale" in capsys.readouterr().out
    assert plt.imread(tmp_path / "results.png").std() > 0
