import dataclasses

import pytest

from mini_moe.profiling import count, muon_flops, roofline
from mini_moe.profiling.limits import Limits
from mini_moe.profiling.roofline import Point, counted_work

LIMITS = Limits(
    device="cpu", threads=1, flops={"float32": 1e12, "bfloat16": 2e12},
    flops_from={"float32": "torch", "bfloat16": "torch"},
    memory_bytes=1e11, cache_bytes=2e11, call_seconds=1e-6,
)  # fmt: skip


@pytest.fixture
def joined(profiled, config):
    model, profile = profiled
    counts = count(model, batch=config.batch_size, seq=config.seq_len)
    return profile, counts, roofline(profile, counts, LIMITS)


def test_every_product_belongs_to_a_point(joined):
    _, counts, roof = joined
    flops = sum(point.flops for point in roof.points if point.kind != "optimizer")
    assert flops == counts.total.flops_training
    assert roof["optimizer"].flops == muon_flops(counts.config)


def test_points_have_the_times_of_the_profile(joined):
    profile, _, roof = joined
    sums = profile.by()
    together = sums["experts"] + sums.get("sort", 0.0) + sums["combine"]
    assert roof["experts"].seconds == pytest.approx(together)
    assert roof["attention"].seconds == pytest.approx(sums["attention"])


def test_utilisation_counts_only_the_model(joined):
    profile, counts, roof = joined
    expected = counts.total.flops_training / profile.plain_seconds / 1e12
    assert roof.utilisation == pytest.approx(expected)


def test_the_limit_that_takes_longest_is_the_bound():
    point = Point(
        kind="head", flops=100, n_bytes=50, calls=2, seconds=8.0,
        limits={"compute": 1.0, "bytes": 4.0, "calls": 2.0},
    )  # fmt: skip
    assert (point.bound, point.reached, point.intensity) == ("bytes", 0.5, 2.0)
    assert (point.flops_per_second, point.bytes_per_second) == (12.5, 6.25)


def test_a_forward_pass_moves_a_third_of_the_bytes(joined, profiled):
    profile, counts, _ = joined
    forward = [s for s in profile.segments if s.phase == "forward"]
    only = dataclasses.replace(profile, segments=forward)
    whole, part = counted_work(profile, counts, "muon"), counted_work(only, counts, "muon")
    assert part["head"][1] * 3 == whole["head"][1] and part["head"][0] * 3 == whole["head"][0]
    assert "optimizer" not in part and "loss" not in part


def test_adamw_has_no_products_and_moves_more_bytes(joined):
    profile, counts, _ = joined
    muon, adamw = (counted_work(profile, counts, name)["optimizer"] for name in ("muon", "adamw"))
    assert adamw == (0, muon[1] // 5 * 7)


def test_a_count_of_another_batch_is_refused(joined):
    profile, counts, _ = joined
    with pytest.raises(ValueError, match="64 tokens expected"):
        roofline(profile, count(counts.config, batch=1, seq=8), LIMITS)
    with pytest.raises(ValueError, match="optimizer='sgd'"):
        roofline(profile, counts, LIMITS, optimizer="sgd")


def test_an_unknown_kind_is_refused(joined):
    with pytest.raises(ValueError, match="kind: one of"):
        joined[2]["nothing"]


def test_it_prints_every_point(joined):
    text = str(joined[2])
    assert all(point.kind in text for point in joined[2].points) and "utilisation" in text
