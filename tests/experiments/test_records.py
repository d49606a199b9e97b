"""Result files have complete lines and give clear errors."""

import json

import pytest

from mini_moe.experiments import compare, final_losses, load_results, paired_difference
from mini_moe.experiments.records import (
    append_run,
    check_same_settings,
    drop_unfinished,
    replace_runs,
    results_path,
)


def run(arm="dense", seed=0, loss=3.0):
    return {
        "experiment": "balance", "arm": arm, "seed": seed, "model_config": {"d_model": 16},
        "train_config": {"betas": [0.9, 0.95]}, "validation": {"all": loss, "code": 4.0},
        "machine": {}, "command": "python",
    }  # fmt: skip


def test_appended_runs_are_loaded(tmp_path):
    path = results_path("balance", tmp_path / "new")
    append_run(path, run(seed=1))
    append_run(path, run(seed=0))
    assert load_results("balance", tmp_path / "new") == [run(seed=1), run(seed=0)]


def test_results_live_in_the_data_folder():
    assert results_path("sparsity").parts[-3:] == ("data", "experiments", "sparsity.jsonl")


def test_a_missing_file_names_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match="python -m mini_moe.experiments sparsity"):
        load_results("sparsity", tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"arm": "x', "line 2: not JSON"),
        ("[1, 2]", "line 2: a run with experiment, arm"),
        ('{"arm": "x"}', "line 2: a run with experiment, seed"),
        (json.dumps(run()), "arm 'dense', seed 0 in lines 1, 2"),
    ],
)
def test_a_damaged_line_is_named(tmp_path, line, message):
    path = results_path("balance", tmp_path)
    append_run(path, run())
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=message):
        load_results("balance", tmp_path)


def test_only_an_incomplete_last_line_is_dropped(tmp_path):
    path = results_path("balance", tmp_path)
    append_run(path, run())
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"arm": "x", "se')
    drop_unfinished(path)
    assert path.read_bytes() == whole
    drop_unfinished(path)
    assert path.read_bytes() == whole
    path.write_bytes(b'{"arm"')
    drop_unfinished(path)
    assert path.read_bytes() == b""
    drop_unfinished(tmp_path / "nothing")


def test_numbers_that_json_lacks_are_never_written(tmp_path):
    path = results_path("balance", tmp_path)
    with pytest.raises(ValueError):
        append_run(path, run(loss=float("nan")))
    assert path.read_bytes() == b""


def test_replacing_rewrites_the_file(tmp_path):
    path = results_path("step_time", tmp_path)
    append_run(path, run("old"))
    replace_runs(path, [run("a"), run("b")])
    assert [r["arm"] for r in load_results("step_time", tmp_path)] == ["a", "b"]


def test_equal_settings_pass_and_tuples_equal_lists(tmp_path):
    settings = {"model_config": {"d_model": 16}, "train_config": {"betas": (0.9, 0.95)}}
    check_same_settings(tmp_path, run(), settings)


@pytest.mark.parametrize("changed", [{"d_model": 32}, {"d_model": 16, "new": 1}, {}])
def test_a_different_setting_is_named(tmp_path, changed):
    settings = {"model_config": changed, "train_config": {"betas": (0.9, 0.95)}}
    with pytest.raises(ValueError, match=r"arm 'dense', seed 0: (d_model|new)=.* run with"):
        check_same_settings(tmp_path, run(), settings)


def test_final_losses_are_sorted_by_seed():
    runs = [run(seed=2, loss=3.2), run(seed=0, loss=3.0), run("moe"), run(seed=1, loss=3.1)]
    assert final_losses(runs, "dense") == [3.0, 3.1, 3.2]
    assert final_losses(runs, "moe", "code") == [4.0]


def test_unknown_arms_and_domains_are_refused():
    with pytest.raises(ValueError, match="arm='sparse': one of dense expected"):
        final_losses([run()], "sparse")
    with pytest.raises(ValueError, match=r"domain='law': one of \['all', 'code'\]"):
        final_losses([run()], "dense", "law")


def test_arms_are_compared_over_the_seeds_that_both_have():
    moe = [run("moe", seed, loss) for seed, loss in ((2, 2.0), (0, 2.5), (1, 2.9))]
    dense = [run("dense", seed, loss) for seed, loss in ((0, 3.0), (2, 2.75), (7, 9.0))]
    assert compare(moe + dense, "moe", "dense") == paired_difference([2.5, 2.0], [3.0, 2.75])
    with pytest.raises(ValueError, match="at least two finite numbers"):
        compare(moe + dense[2:], "moe", "dense")
