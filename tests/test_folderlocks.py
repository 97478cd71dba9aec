"""Folders of processes that live are left alone, those of killed ones go; one that is taken too early is made anew."""

from __future__ import annotations

import pytest

from robustidps import folderlocks
from robustidps.folderlocks import Claimed, held, remove_abandoned


def test_an_abandoned_folder_goes_and_one_that_is_held_stays(tmp_path):
    (tmp_path / "abandoned" / "inside").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with Claimed(tmp_path, "mine-") as mine:
        remove_abandoned(tmp_path, lambda name: name != "elsewhere")
        assert {p.name for p in tmp_path.iterdir()} == {mine.name, "elsewhere", "link"}
        with pytest.raises(BlockingIOError), held(mine, wait=False):
            pass
    assert not mine.exists()


def test_a_folder_that_is_taken_for_an_abandoned_one_before_it_is_locked_is_made_anew(tmp_path, monkeypatch):
    real, calls = folderlocks.fcntl.flock, []

    def late(handle, how):
        calls.append(how)
        if len(calls) == 1:
            remove_abandoned(tmp_path)
        real(handle, how)

    monkeypatch.setattr(folderlocks.fcntl, "flock", late)
    with Claimed(tmp_path) as mine:
        assert [p.name for p in tmp_path.iterdir()] == [mine.name]
        remove_abandoned(tmp_path)
        assert mine.is_dir()


def test_a_claimed_folder_that_was_renamed_is_kept(tmp_path):
    with Claimed(tmp_path) as mine:
        mine.rename(tmp_path / "whole")
    assert [p.name for p in tmp_path.iterdir()] == ["whole"]
