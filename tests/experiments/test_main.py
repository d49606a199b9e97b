"""The command: what it runs, what it leaves alone, and how it resumes."""

import dataclasses
import json

import pytest

from mini_moe.experiments import __main__ as experiments
from mini_moe.experiments import load_results
from mini_moe.experiments.__main__ import chosen, main


def arguments(folder, *more, name="balance"):
    return [name, "--folder", str(folder), *more]


def timeless(run):
    """Return a run without what differs each time: clock times and the machine's load."""
    kept = {k: v for k, v in run.items() if k not in ("machine", "command")}
    for name in ("curve", "violation_curve"):
        kept[name] = [[step, value] for step, _, value in run.get(name, [])]
    return kept


def test_every_arm_runs_once_per_seed(corpus_and_arms, tmp_path, capsys):
    assert main(arguments(tmp_path, "--seeds", "2")) == 0
    runs = load_results("balance", tmp_path)
    assert [(r["arm"], r["seed"]) for r in runs] == [
        ("moe", 0), ("dense", 0), ("moe", 1), ("dense", 1),
    ]  # fmt: skip
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_a_record_contains_settings_sizes_curve_losses_balance_machine_and_command(
    corpus_and_arms, tmp_path
):
    corpus, arms = corpus_and_arms
    main(arguments(tmp_path, "--seeds", "1"))
    moe, dense = load_results("balance", tmp_path)
    assert moe["model_config"] == json.loads(json.dumps(dataclasses.asdict(arms["moe"].model)))
    assert moe["train_config"]["seed"] == 0
    assert moe["parameters"]["active"] < moe["parameters"]["total"]
    assert moe["flops_per_token"] > 6 * moe["parameters"]["active"] * 0.9
    assert [step for step, _, _ in moe["curve"]] == [10, 20]
    assert set(moe["validation"]) == {*corpus.domain_names, "all"}
    assert len(moe["max_violation"]["global"]) == len(moe["max_violation"]["batch"]) == 2
    assert set(moe["machine"]) >= {"cpu", "cores", "threads", "torch", "date"}
    assert moe["command"].startswith("python -m mini_moe.experiments balance --folder")
    assert "max_violation" not in dense and "knock_outs" not in dense


def test_loads_of_every_layer_sum_to_one(corpus_and_arms, tmp_path):
    main(arguments(tmp_path, "--seeds", "1", "--arms", "moe"))
    (moe,) = load_results("balance", tmp_path)
    for load in (moe["load"], *moe["load_by_domain"].values()):
        assert [len(layer) for layer in load] == [12, 12]
        assert [sum(layer) for layer in load] == pytest.approx([1, 1], abs=1e-4)


def test_the_same_seed_gives_the_same_run(corpus_and_arms, tmp_path):
    for folder in ("first", "second"):
        main(arguments(tmp_path / folder, "--seeds", "1"))
    first, second = (load_results("balance", tmp_path / folder) for folder in ("first", "second"))
    assert list(map(timeless, first)) == list(map(timeless, second))


def test_another_seed_gives_another_run(corpus_and_arms, tmp_path):
    main(arguments(tmp_path, "--seeds", "2", "--arms", "dense"))
    first, second = load_results("balance", tmp_path)
    assert first["validation"] != second["validation"]


def test_two_parallel_commands_record_each_run_once(corpus_and_arms, tmp_path, monkeypatch):
    measure = experiments.measure

    def slow(*settings):
        monkeypatch.setattr(experiments, "measure", measure)
        record = measure(*settings)
        assert main(arguments(tmp_path, "--seeds", "1")) == 0  # the same command in parallel
        return record

    monkeypatch.setattr(experiments, "measure", slow)
    assert main(arguments(tmp_path, "--seeds", "1")) == 0
    assert [run["arm"] for run in load_results("balance", tmp_path)] == ["moe", "dense"]


def test_finished_runs_are_not_repeated(corpus_and_arms, tmp_path, capsys):
    main(arguments(tmp_path, "--seeds", "1", "--arms", "dense"))
    before = (tmp_path / "balance.jsonl").read_text()
    capsys.readouterr()
    main(arguments(tmp_path, "--seeds", "1"))
    assert (tmp_path / "balance.jsonl").read_text().startswith(before)
    assert capsys.readouterr().out.count("seed 0") == 1
    assert main(arguments(tmp_path, "--seeds", "1")) == 0
    assert capsys.readouterr().out == ""


def test_runs_finished_by_a_parallel_command_are_skipped(corpus_and_arms, tmp_path, monkeypatch):
    from mini_moe.experiments import __main__ as command

    def measure(*job):
        monkeypatch.setattr(command, "measure", real)
        assert main(arguments(tmp_path, "--seeds", "1", "--arms", "dense")) == 0
        return real(*job)

    real = command.measure
    monkeypatch.setattr(command, "measure", measure)
    assert main(arguments(tmp_path, "--seeds", "1")) == 0
    assert [run["arm"] for run in load_results("balance", tmp_path)] == ["dense", "moe"]


def test_a_killed_run_leaves_a_line_that_the_next_command_replaces(corpus_and_arms, tmp_path):
    main(arguments(tmp_path, "--seeds", "1"))
    path = tmp_path / "balance.jsonl"
    whole = load_results("balance", tmp_path)
    path.write_bytes(path.read_bytes()[:-200])
    assert main(arguments(tmp_path, "--seeds", "1")) == 0
    again = load_results("balance", tmp_path)
    assert list(map(timeless, again)) == list(map(timeless, whole))


def test_ctrl_c_writes_nothing_and_says_how_to_continue(
    corpus_and_arms, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("mini_moe.experiments.__main__.measure", lambda *_: None)
    assert main(arguments(tmp_path)) == 1
    assert not (tmp_path / "balance.jsonl").exists()
    assert "the same command continues" in capsys.readouterr().out


def test_a_stopped_training_gives_no_result(corpus, arms, monkeypatch):
    from mini_moe.experiments import measures

    def stopped(*args, **options):
        return train(*args, should_stop=lambda: True, **options)

    train = measures.train
    monkeypatch.setattr(measures, "train", stopped)
    assert measures.measure("balance", "dense", arms["dense"], 0, corpus) is None


def test_a_different_setting_in_the_file_is_refused_before_anything_runs(
    corpus_and_arms, tmp_path, capsys
):
    corpus, arms = corpus_and_arms
    main(arguments(tmp_path, "--seeds", "1", "--arms", "dense"))
    arm = arms["dense"]
    arms["dense"] = dataclasses.replace(
        arm, training=dataclasses.replace(arm.training, learning_rate=0.5)
    )
    before = (tmp_path / "balance.jsonl").read_text()
    assert main(arguments(tmp_path, "--seeds", "2")) == 1
    message = "learning_rate=0.5 expected, but it was run with 0.02"
    assert message in capsys.readouterr().err
    assert (tmp_path / "balance.jsonl").read_text() == before


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--arms", "sparse"], "arms: one of moe, dense expected, got 'sparse'"),
        (["--seeds", "0"], "seeds=0 must be at least 1"),
        (["--part", "3/2"], "part='3/2': I/N"),
        (["--part", "half"], "part='half': I/N"),
    ],
)
def test_mistakes_end_in_one_line(corpus_and_arms, tmp_path, capsys, more, message):
    assert main(arguments(tmp_path, *more)) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_parts_divide_the_runs_without_overlap(arms):
    whole = chosen(arms, None, 3)
    parts = [chosen(arms, None, 3, f"{n}/4") for n in (1, 2, 3, 4)]
    keys = [(name, seed) for part in parts for name, _, seed in part]
    assert sorted(keys) == sorted((name, seed) for name, _, seed in whole)


def test_step_time_measures_every_model_once_and_from_scratch(
    corpus_and_arms, tmp_path, monkeypatch
):
    monkeypatch.setattr("mini_moe.experiments.step_time.ROUNDS", 1)
    corpus, arms = corpus_and_arms
    arms["dense again"] = arms["dense"]
    for _ in range(2):
        assert main(arguments(tmp_path, name="step_time")) == 0
    runs = load_results("step_time", tmp_path)
    assert [run["arm"] for run in runs] == ["moe", "dense"]
    assert all(len(run["seconds"]) == 3 and run["median"] > 0 for run in runs)
    assert {run["machine"]["threads"] for run in runs} == {2}
