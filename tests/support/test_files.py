"""Files are complete or absent."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fxprune.errors import ExportError, FxpruneError, PlanError
from fxprune.support.files import atomic_path, check_writable, write_text
from fxprune.support.locks import claimed, sweep


def _listing(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def _fail_half_way(target: Path, failure: BaseException) -> None:
    with atomic_path(target, error=ExportError, advice="free some") as temporary:
        temporary.write_text("half")
        raise failure


def test_written_and_replaced(tmp_path: Path) -> None:
    target = tmp_path / "plan.json"
    write_text(target, "één")
    assert target.read_bytes() == "één".encode()
    with atomic_path(target) as temporary:
        assert temporary.name == target.name  # so that files may refer to one another
        temporary.write_bytes(b"new")
        assert target.read_bytes() == "één".encode()  # untouched until the end
    assert target.read_bytes() == b"new"
    assert _listing(tmp_path) == ["plan.json"]


def test_files_beside_move_too(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "a.onnx", beside=["a.onnx.data", "unused"]) as temporary:
        temporary.write_text("graph")
        temporary.with_name("a.onnx.data").write_text("weights")
        temporary.with_name("scratch").write_text("dropped")
        assert not (tmp_path / "a.onnx.data").exists()
    assert _listing(tmp_path) == ["a.onnx", "a.onnx.data"]
    assert (tmp_path / "a.onnx.data").read_text() == "weights"


@pytest.mark.parametrize("failure", [ValueError("check failed"), KeyboardInterrupt()])
def test_failure_leaves_the_old_file(tmp_path: Path, failure: BaseException) -> None:
    target = tmp_path / "a.onnx"
    target.write_text("old")
    with pytest.raises(type(failure)):
        _fail_half_way(target, failure)
    assert target.read_text() == "old"
    assert _listing(tmp_path) == ["a.onnx"]


def test_disk_full(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"a\.onnx cannot be written: No space left") as caught:
        _fail_half_way(tmp_path / "a.onnx", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert caught.value.advice == "free some"
    assert _listing(tmp_path) == []


def test_body_that_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(FxpruneError, match="cannot be written"), atomic_path(tmp_path / "a"):
        pass
    assert _listing(tmp_path) == []


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("x")
    write_text(tmp_path / "ours", "x")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_refusals(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for target, says in [
        (tmp_path / "none" / "a.json", "does not exist"),
        (tmp_path / "file" / "a.json", "is not a folder"),
        (tmp_path / "folder", "it is a folder"),
        (Path(os.devnull), "not a regular file"),
        (tmp_path / "loop", "cannot be written"),
    ]:
        with pytest.raises(PlanError, match=says) as caught:
            write_text(target, "x", error=PlanError)
        assert "what to do: choose a path" in str(caught.value)


@pytest.mark.parametrize(("umask", "fresh"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions(tmp_path: Path, umask: int, fresh: int) -> None:
    """Also where the writer, as safetensors, makes private files: the umask decides, or the file that was there."""
    before = os.umask(umask)
    try:
        for name, mode in (("new", None), ("private", 0o600), ("shared", 0o666)):
            path = tmp_path / name
            if mode is not None:
                path.write_text("old")
                path.chmod(mode)
            with atomic_path(path) as temporary:
                assert temporary.parent.stat().st_mode & 0o077 == 0  # nobody looks in meanwhile
                save_file({"a": torch.ones(3)}, temporary)
            assert path.stat().st_mode & 0o777 == (fresh if mode is None else mode)
    finally:
        os.umask(before)


def test_names(tmp_path: Path) -> None:
    name = "🙂" * 62 + ".json"  # 253 bytes, which is a legal name
    write_text(tmp_path / name, "x")
    assert _listing(tmp_path) == [name]
    for wrong, says in (
        ("a\0b", "null byte"),
        ("a" * 300, "name too long"),
        ("~nobody-of-that-name/a", "home directory"),
    ):
        path = wrong if wrong.startswith("~") else tmp_path / wrong
        with pytest.raises(FxpruneError, match=rf"(?i)cannot be written: .*{says}"):
            write_text(path, "x")


# --- processes that end in the middle ----------------------------------------------------------


def _forked(work: Callable[[], None], *, kill: int = 0) -> None:
    """Run in a process of its own; without a signal it has to end well."""
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(60)
    assert process.exitcode == -kill


def _die(number: int = signal.SIGKILL) -> None:
    os.kill(os.getpid(), number)


def test_what_a_killed_writer_leaves_goes_at_the_next_start(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    target.write_text("old")

    def killed() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            _die()

    _forked(killed, kill=signal.SIGKILL)
    assert target.read_text() == "old"
    [left] = [path for path in tmp_path.iterdir() if path != target]
    # What looks alike and is not ours stays: other machines' folders, files, links, other names.
    other = tmp_path / left.name.replace(left.name[9:17], "0" * 8)
    other.mkdir()
    (tmp_path / ".a.json.0123abcd.tmp").mkdir()
    link = tmp_path / f"{left.name[:-12]}00000000.tmp"
    link.symlink_to(other)
    with atomic_path(target) as living:  # nor does what a living process still needs
        write_text(tmp_path / "b.json", "x")
        living.write_text("new")
    assert target.read_text() == "new"
    assert _listing(tmp_path) == sorted(["a.json", "b.json", ".a.json.0123abcd.tmp", other.name, link.name])


def test_another_process_keeps_its_temporary_files(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "a") as temporary:
        temporary.write_text("half")
        _forked(lambda: sweep(tmp_path))
        assert temporary.exists()
    assert _listing(tmp_path) == ["a"]


def test_a_folder_has_one_owner(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "one"

    def refused() -> None:
        says = rf"one is in use: process {owner} on .* \(train\)"
        with pytest.raises(FxpruneError, match=says), claimed(folder, "compress"):
            pass

    owner = os.getpid()
    with claimed(folder, "train"):
        refused()  # another thread would get the same answer
        _forked(refused)
    assert not folder.parent.exists()  # nothing was written
    with claimed(folder, "train"):
        (folder / "a").write_text("x")
    assert _listing(folder) == ["a"]


def test_a_dead_owner_has_nothing(tmp_path: Path) -> None:
    def killed() -> None:
        with claimed(tmp_path / "o", "train"):
            _die()

    _forked(killed, kill=signal.SIGKILL)
    assert len(_listing(tmp_path / "o")) == 1
    with claimed(tmp_path / "o", "train"):
        pass
    assert _listing(tmp_path / "o") == []


@contextlib.contextmanager
def short_of_space(size: int) -> Iterator[None]:
    """No file may become larger: the system itself then refuses to write, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_writers_that_are_stopped_by_the_system(tmp_path: Path) -> None:
    target = tmp_path / "a"
    write_text(target, "old")
    tensors = {"a": torch.ones(10_000)}
    with short_of_space(4096):
        says = r"cannot be written: .*[Tt]oo large"
        with pytest.raises(PlanError, match=says):
            write_text(target, "x" * 10_000, error=PlanError)
        with (
            pytest.raises(PlanError, match=says) as caught,
            atomic_path(target, error=PlanError) as temporary,
        ):
            save_file(tensors, temporary)
    assert "a disk with space left" in caught.value.advice
    assert target.read_text() == "old"
    assert _listing(tmp_path) == ["a"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(FxpruneError, match="no permission"):
            check_writable(tmp_path / "a")
    finally:
        tmp_path.chmod(0o700)
