"""What the shell is offered, without torch; and bash, which cuts words at colons."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fxprune import targets
from fxprune.cli import completion
from fxprune.criteria import CRITERIA, FROM_SAMPLES

ROOT = Path(__file__).resolve().parents[2]
NETS = """
def make(width=8): ...
def sized(width): ...
def _hidden(): ...
def keyword(*, depth): ...
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "torn.py").write_text("def make(:")
    (tmp_path / "recipes" / "mine").mkdir(parents=True)
    (tmp_path / "recipes" / "mine" / "one.yaml").write_text("")
    (tmp_path / "cpu.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_models(here: Path) -> None:
    assert {"torchvision:", "nets.py", "torn.py", "recipes/"} <= set(completion.models(""))
    assert "notes.txt" not in completion.models("")
    assert completion.models("torchvision:resnet1") == [f"torchvision:resnet{n}" for n in (101, 152, 18)]
    assert completion.models("torchvision:resnet18") == [
        "torchvision:resnet18",
        "torchvision:resnet18@pretrained",
    ]
    assert completion.models("torchvision:resnet18@p") == ["torchvision:resnet18@pretrained"]
    assert "torchvision:vit_b_16" in completion.models("torchv"), "one zoo: no space is put behind the colon"
    assert completion.models("nets.py:") == ["nets.py:make"]
    assert completion.models("torn.py:") == completion.models("none.py:") == completion.models("none/") == []


def test_timm_where_it_is_installed(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zoo = here / "site" / "timm" / "models"
    zoo.mkdir(parents=True)
    (zoo.parent / "__init__.py").write_text("raise ImportError('nobody imports it')")
    (zoo / "net.py").write_text("@register_model\ndef net_small(pretrained=False):\n    pass\n")
    monkeypatch.syspath_prepend(here / "site")
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    completion_names = __import__("fxprune.models.zoo", fromlist=["names"]).names
    completion_names.cache_clear()
    try:
        assert completion.models("timm:net") == ["timm:net_small"]
        assert "timm:" in completion.models("t")
    finally:
        completion_names.cache_clear()


def test_other_words(here: Path) -> None:
    assert completion.criteria("") == [*(criterion.name for criterion in CRITERIA), *FROM_SAMPLES]
    assert completion.criteria("sens") == ["sensitivity"]
    assert completion.targets("") == [*targets.names(), "cpu.json", "recipes/"]
    assert completion.recipes("rec") == ["recipes/mine/one.yaml"]  # the only way to go on


@pytest.mark.parametrize(
    ("words", "at", "joined", "prefix"),
    [
        ("fxprune plan torchvision : res", 4, "fxprune plan torchvision:res", "torchvision:"),
        ("fxprune plan torchvision :", 3, "fxprune plan torchvision:", "torchvision:"),
        ("fxprune plan torchvision : r18 @ p", 6, "fxprune plan torchvision:r18@p", "torchvision:r18"),
        ("fxprune plan a : b -c se", 6, "fxprune plan a:b -c se", ""),
        ("fxprune plan tor", 2, "fxprune plan tor", ""),
    ],
)
def test_words_that_bash_has_cut(words: str, at: int, joined: str, prefix: str) -> None:
    asked = {"X": "complete_bash", "COMP_WORDS": words.replace(" ", "\n"), "COMP_CWORD": str(at)}
    assert completion.shell_words(asked, "X") == prefix
    assert asked["COMP_WORDS"].split("\n") == joined.split()
    untouched = {**asked, "X": "complete_zsh", "COMP_WORDS": words}
    assert completion.shell_words(dict(untouched), "X") == ""


def asked(here: Path, shell: str, **environment: str) -> tuple[list[str], bool]:
    """What the program prints for a shell, and whether it has loaded torch for that."""
    script = (
        "import atexit, json, sys\n"
        "atexit.register(lambda: print(json.dumps('torch' in sys.modules), file=sys.stderr))\n"
        "sys.argv[0] = 'fxprune'\n"
        "from fxprune.cli.app import main\nmain()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=here,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "_FXPRUNE_COMPLETE": f"complete_{shell}", **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split(), json.loads(done.stderr.splitlines()[-1])


def test_the_program_answers_shells(here: Path) -> None:
    for words, at, offered in (
        ("fxprune\nplan\ntorchvision\n:\nresnet5", 4, ["resnet50"]),
        ("fxprune\nplan\nnets\n", 2, ["nets.py"]),
        ("fxprune\nplan\nx:y\n-c\ntay", 4, ["taylor"]),
        ("fxprune\nexport\nx:y\n--target\nan", 4, ["any"]),
        ("fxprune\ntrain\nrecipes/", 2, ["recipes/mine/one.yaml"]),
        ("fxprune\ncomp", 1, ["compress"]),
        ("fxprune\nplan\nx:y\n--forc", 3, ["--force"]),
    ):
        assert asked(here, "bash", COMP_WORDS=words, COMP_CWORD=str(at)) == (offered, False), words
    typed = "fxprune plan torchvision:resnet5"
    said, loaded = asked(here, "fish", _TYPER_COMPLETE_ARGS=typed, _TYPER_COMPLETE_FISH_ACTION="get-args")
    assert (said, loaded) == (["torchvision:resnet50"], False)


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_in_bash_itself(here: Path) -> None:
    """Its own function fills COMPREPLY from what the program says."""
    program = here / "fxprune"
    program.write_text(f"#!{sys.executable}\nfrom fxprune.cli.app import main\nmain()\n")
    program.chmod(0o755)
    lines = (
        'eval "$(_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION=1 fxprune --show-completion bash)"',
        "COMP_WORDS=(fxprune plan torchvision : resnet5); COMP_CWORD=4",
        '_fxprune_completion fxprune; printf "%s\\n" "${COMPREPLY[@]}"',
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", "\n".join(lines)],
        cwd=here,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{here}{os.pathsep}{os.environ['PATH']}"},
    )
    assert done.stdout.split() == ["resnet50"], done.stderr
