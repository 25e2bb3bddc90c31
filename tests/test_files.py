"""Files are complete or absent."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from fxprune.errors import ExportError, FxpruneError, PlanError
from fxprune.files import atomic_path, check_writable, write_text


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


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(FxpruneError, match="no permission"):
            check_writable(tmp_path / "a")
    finally:
        tmp_path.chmod(0o700)
