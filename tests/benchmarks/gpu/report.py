"""Turn rows into targets met or missed, a JSON file, and tables for the screen and README."""

import json
import re
from pathlib import Path

from tests.benchmarks.common import RESULTS
from tests.benchmarks.gpu.cases import DEEPSEEK_V3, TEACHING

PEAK = 989.0  # TFLOP/s of an H100's or H200's tensor cores in bf16, dense, by NVIDIA's datasheet
RATES = ("tflop_s", "gb_s", "tokens_s")
OURS = "mini_moe"


def find(rows: list[dict], part: str, peer: str | None = None, **case: object) -> list[dict]:
    """Return the measured rows of a part, of a peer, and of cases with these values."""
    return [
        row
        for row in rows
        if row.get("part") == part
        and "ms" in row
        and peer in (None, row["peer"])
        and all(row["case"].get(name) == value for name, value in case.items())
    ]


def copy_bandwidth(rows: list[dict]) -> float | None:
    """Return the GB/s of the large copy in the same run."""
    return next((row["gb_s"] for row in find(rows, "ceiling", "copy")), None)


def cublas_rate(rows: list[dict]) -> float | None:
    """Return the TFLOP/s of the same run's large product: what this card achieves at its clocks."""
    return next((row["tflop_s"] for row in find(rows, "ceiling", "cuBLAS")), None)


def tiles_answer(rows: list[dict]) -> str:
    """Say whether 128 × 256 tiles beat 128 × 128 ones, and what the launcher's own choice cost."""
    said, wins, missed = [], 0, 0
    for case, peers in grouped(rows, "tiles"):
        times = [peers.get(name, {}).get("ms") for name in ("128 × 128", "128 × 256", OURS)]
        if None not in times:
            small, large, chosen = times
            wins, missed = wins + (large < small), missed + (chosen > 1.03 * min(small, large))
            shape = "{kernel} {experts} × {rows}, n {n}, k {k}".format(**case)
            said.append(f"{shape}: {small / large:.2f}")
    return (
        f"128 × 256 tiles are faster than 128 × 128 in {wins} of {len(said)} cases (speed: "
        f"{'; '.join(said) or 'not measured'}). The launcher's choice, `wide_tiles_pay` in "
        f"kernels/tensor_core_tiles.cuh, lost more than 3 % in {missed}."
    )


def targets(rows: list[dict]) -> list[dict]:
    """Check the project's own five speed targets: {target, wanted, got, met, where}."""
    return [
        moving("permute", rows),
        moving("combine", rows),
        gate_target(rows),
        product_target(rows),
        layer_target(rows),
    ]


def target(name: str, wanted: str, got: float | None, met: bool | None, where: str) -> dict:
    return {"target": name, "wanted": wanted, "got": got, "met": met, "where": where}


def moving(part: str, rows: list[dict]) -> dict:
    """Compare bytes per second with the copy's, on DeepSeek-V3's layer."""
    wide = DEEPSEEK_V3._asdict()
    here, copy = find(rows, part, OURS, routing="uniform", **wide), copy_bandwidth(rows)
    got = 100 * here[0]["gb_s"] / copy if here and copy else None
    met = None if got is None else got >= 80
    return target(f"{part}, % of copy bandwidth", "≥ 80", got, met, str(tuple(DEEPSEEK_V3)))


def gate_target(rows: list[dict]) -> dict:
    here = find(rows, "gate", OURS, tokens=8192, experts=256)
    got = 1e3 * here[0]["ms"] if here else None
    met = None if got is None else got <= 15
    return target("gate, µs", "≤ 15", got, met, "8192 tokens, 256 experts")


def product_target(rows: list[dict]) -> dict:
    """The worst of the shapes with at least 1024 rows per expert, each with its best tiles."""
    best: dict[str, float] = {}
    for row in find(rows, "grouped_gemm", operation="a bᵀ", loads="even"):
        if row["peer"].startswith(OURS) and row["case"]["rows"] >= 1024:
            name = "{experts} × {rows}, n {n}, k {k}".format(**row["case"])
            best[name] = max(best.get(name, 0), 100 * row["tflop_s"] / PEAK)
    where = min(best, key=best.get) if best else ""
    got = best.get(where)
    met = None if got is None else got >= 35
    return target("grouped_gemm, % of 989 TFLOP/s, worst shape", "≥ 35", got, met, where)


def layer_target(rows: list[dict]) -> dict:
    case = {"routing": "uniform", "pass": "forward", "mode": "call", **TEACHING._asdict()}
    ways = ("grouped_mm", "grouped_mm, bag")  # the faster one counts
    ours = find(rows, "layer", OURS, **case)
    theirs = [row["ms"] for way in ways for row in find(rows, "layer", way, **case)]
    got = min(theirs) / ours[0]["ms"] if ours and theirs else None
    met = None if got is None else got >= 4
    return target("layer, times grouped_mm's speed", "≥ 4", got, met, str(tuple(TEACHING)))


def write(result: dict, folder: Path = RESULTS) -> Path:
    """Write gpu_DEVICE.json into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    device = re.sub(r"\W+", "_", result["machine"]["device"].lower()).strip("_")
    path = folder / f"gpu_{device}.json"
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def markdown(result: dict) -> str:
    """Format all tables of kernels/README.md from the JSON file alone."""
    machine, rows = result["machine"], result["rows"]
    head = (
        f"{machine['device']}, {machine['date']}, `{result['command']}`, torch {machine['torch']}"
    )
    parts = [
        f"{head}, driver {machine['driver']}. Medians; ± is half the interquartile range.",
        check_line(result.get("check", {})),
        ceiling_line(rows),
        tiles_answer(rows) if grouped(rows, "tiles") else "",
        target_table(result["targets"]),
        layer_table(rows),
        reasons(rows, "layer"),
        inside_table(rows),
        product_table(rows),
        reasons(rows, "grouped_gemm"),
        ladder_table(rows),
        small_table(rows),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def check_line(found: dict) -> str:
    """Summarise what was checked before timing."""
    words = {True: "clean", False: "**errors**"}
    said = []
    for name, outcome in found.items():
        if name == "tests":
            counts = (f"{outcome[word]} {word}" for word in ("passed", "failed", "skipped"))
            said.append(f"tests/gpu: {', '.join(counts)}")
        else:
            said.append(f"{name}: {words.get(outcome['ok'], outcome['text'])}")
    return "; ".join(said) + "." if said else ""


def ceiling_line(rows: list[dict]) -> str:
    """Report the card's own limits, measured in this run, and the datasheet's."""
    rate, copy = cublas_rate(rows), copy_bandwidth(rows)
    if rate is None:
        return ""
    words = f"cuBLAS on 8192 × 8192 × 8192: {rate:.0f} TFLOP/s, {100 * rate / PEAK:.0f} % of "
    words += f"the datasheet's {PEAK:.0f}"
    return f"{words}; a large copy: {copy:,.0f} GB/s." if copy else f"{words}."


def inside_table(rows: list[dict]) -> str:
    """Show kernel by kernel where a call of the layer spends its time."""
    lines = []
    for case, peers in grouped(rows, "inside"):
        what = ", ".join(str(case[name]) for name in TEACHING._fields)
        what += ", fwd" if case["pass"] == "forward" else ", fwd+bwd"
        for name, row in peers.items():
            times = [f"{row['ms']:.4f}", number(row["launches"], 1), number(100 * row["share"], 0)]
            lines.append([what, name, *times])
    return table(["inside the layer", "kernel", "ms per call", "launches", "% of all"], lines)


def target_table(found: list[dict]) -> str:
    """Show which targets are met, not met or not measured."""
    words = {True: "met", False: "not met", None: "not measured"}
    lines = [
        [t["target"], t["where"], t["wanted"], number(t["got"], 1), words[t["met"]]] for t in found
    ]
    return table(["target", "where", "wanted", "got", ""], lines)


def layer_table(rows: list[dict]) -> str:
    """Show each peer's milliseconds, one case per line, and how well ours uses the GPU."""
    cases = grouped(rows, "layer")
    names = peers_of(cases)
    lines = []
    for case, peers in cases:
        ours, dense = (peers.get(name, {}) for name in (OURS, "dense"))
        share = 100 * dense["ms"] / ours["ms"] if "ms" in ours and "ms" in dense else None
        words = "fwd" if case["pass"] == "forward" else "fwd+bwd"
        mode = "" if case["mode"] == "call" else f", {case['mode']}"
        shape = ", ".join(str(case[name]) for name in TEACHING._fields)
        rates = [number(ours.get(rate), 0) for rate in ("tflop_s", "gb_s")]
        times = [cell(peers.get(name)) for name in names]
        lines.append([shape, case["routing"], words + mode, *times, *rates, number(share, 0)])
    columns = ["ms: tokens, d, d_expert, experts, top_k", "routing", "pass", *names]
    return table([*columns, "TFLOP/s", "GB/s", "% of dense"], lines)


def product_table(rows: list[dict]) -> str:
    """Show each peer's TFLOP/s, one case per line; ours as launched, and with the best tiles."""
    cases = grouped(rows, "grouped_gemm")
    others = [name for name in peers_of(cases) if not name.startswith(OURS)]
    lines = []
    for case, peers in cases:
        rates = {name: row["tflop_s"] for name, row in peers.items() if "tflop_s" in row}
        ours = {name: rate for name, rate in rates.items() if name.startswith(OURS)}
        best = max(ours, key=ours.get, default=OURS)
        dense, most = rates.get("cuBLAS, dense"), ours.get(best)
        what = [case["operation"], f"{case['experts']} × {case['rows']}", str(case["n"])]
        what += [str(case["k"]), case["loads"], number(rates.get(OURS), 0)]
        what.append(f"{number(most, 0)} {best.removeprefix(OURS).strip(', ')}".strip())
        limits = (dense, cublas_rate(rows), PEAK)
        shares = [number(100 * most / full if most and full else None, 0) for full in limits]
        lines.append([*what, *(number(rates.get(name), 0) for name in others), *shares])
    columns = ["TFLOP/s", "experts × rows", "n", "k", "loads", OURS, "best tiles", *others]
    return table([*columns, "% of dense", "% of cuBLAS, 8192³", "% of 989"], lines)


def ladder_table(rows: list[dict]) -> str:
    """Show one line per step: time, rate, and share of cuBLAS on a dense product of equal FLOPs."""
    lines = []
    for case, peers in grouped(rows, "ladder"):
        dense = peers.get("cuBLAS, dense", {}).get("tflop_s")
        for peer, row in peers.items():
            rate = row.get("tflop_s")
            share = number(100 * rate / dense if rate and dense else None, 1)
            shape = "{experts} × {rows}, n {n}, k {k}".format(**case)
            lines.append([shape, peer, cell(row), number(rate, 1), share])
    return table(["experts × rows", "", "ms", "TFLOP/s", "% of cuBLAS"], lines)


def small_table(rows: list[dict]) -> str:
    """Show one line per peer: ceilings, gate, router, sort, permute, combine, training."""
    copy = copy_bandwidth(rows)
    lines = []
    for part in ("ceiling", "gate", "router", "sort", "permute", "combine", "training"):
        for case, peers in grouped(rows, part):
            sizes = {name: value for name, value in case.items() if name != "d_expert"}
            what = ", ".join(f"{name} {value}" for name, value in sizes.items())
            for peer, row in peers.items():
                share = number(100 * row["gb_s"] / copy, 0) if copy and "gb_s" in row else ""
                rates = [number(row[name], 0) if name in row else "" for name in RATES]
                lines.append([part, what, peer, cell(row), *rates, share])
    columns = ["", "case", "peer", "ms", "TFLOP/s", "GB/s", "tokens/s", "% of copy"]
    return table(columns, lines)


def reasons(rows: list[dict], part: str) -> str:
    """List why figures are missing, each reason once."""
    said = [
        f"{r['peer']}: {r['why_not']}" for r in rows if r.get("part") == part and "why_not" in r
    ]
    return "n/a: " + "; ".join(dict.fromkeys(said)) + "." if said else ""


def grouped(rows: list[dict], part: str) -> list[tuple[dict, dict[str, dict]]]:
    """Return a part's cases, each with its rows by peer."""
    cases: dict[str, tuple[dict, dict[str, dict]]] = {}
    for row in rows:
        if row.get("part") == part:
            case = cases.setdefault(json.dumps(row["case"]), (row["case"], {}))
            case[1][row["peer"]] = row
    return list(cases.values())


def peers_of(cases: list[tuple[dict, dict[str, dict]]]) -> list[str]:
    """Return all peers in order of appearance."""
    return list(dict.fromkeys(peer for _, peers in cases for peer in peers))


def cell(row: dict | None) -> str:
    """Format the median milliseconds, and half the interquartile range as a percentage of it."""
    if row is None or "ms" not in row:
        return "n/a"
    return f"{row['ms']:.3g} ±{50 * (row['ms_high'] - row['ms_low']) / row['ms']:.0f} %"


def number(value: float | None, decimals: int) -> str:
    return "n/a" if value is None else f"{value:,.{decimals}f}"


def table(columns: list[str], lines: list[list[str]]) -> str:
    """Format as Markdown, padded to be readable on a screen; empty if there are no lines."""
    if not lines:
        return ""
    widths = [max(map(len, column)) for column in zip(columns, *lines, strict=True)]
    rule = ["-" * width for width in widths]
    return "\n".join(
        "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |"
        for row in [columns, rule, *lines]
    )
