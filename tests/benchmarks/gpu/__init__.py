"""One command that builds, checks and times every kernel on an NVIDIA GPU, in a few minutes.

    python -m tests.benchmarks.gpu [--quick] [--only PART …] [--seconds 240] [--out FOLDER]
    python -m tests.benchmarks.gpu --render results/gpu_DEVICE.json      the tables as markdown

It needs nvcc and a Python with torch and pytest, but no network. The default time is enough to
build, to find out which tiles are faster, and to check; a second call times the rest:

    python -m tests.benchmarks.gpu --seconds 300 --out FOLDER2 \\
      --only kernels layer products ladder training shapes

It writes `gpu_DEVICE.json` into the folder, by default `tests/benchmarks/results`:

    benchmark, command      "gpu", and the command line
    machine                 date, device, capability, memory_gb, multiprocessors, l2_mb, driver,
                            cuda, commit, sources (their fingerprint), python, torch, triton,
                            transformers
    before                  sm_mhz, memory_mhz, power_w, celsius as nvidia-smi reads them, or {}
    readings                by part: medians of the same while it ran, with sm_mhz_low and the
                            number of readings
    build                   extension, launchers: {ok, seconds, text}
    check                   tests: {ok, passed, failed, skipped, seconds, text}; memcheck,
                            racecheck, initcheck, synccheck: {ok, text}; null if it could not run
    rows                    every measurement, in the order taken
    targets                 {target, where, wanted, got, met}; got and met are null if not measured
    left_out                what there was no time for, and parts that ended early
    seconds                 per part, and in total

A row is one peer in one case; the rows of a case are consecutive. It has `part` (tiles, ceiling,
gate, router, sort, permute, combine, grouped_gemm, layer, inside, ladder, training), `case` (sizes,
and whatever else tells cases apart: routing, loads, operation, pass, mode), `peer`, and either
`why_not`, or `ms`, `ms_low`, `ms_high` (median and quartiles) with `runs`, and if meaningful
`tflop_s`, `gb_s`, `tokens_s` and `error` (‖out − expected‖ / ‖expected‖). A layer's mode is "call",
timed as called from Python, or "graph", with all launches replayed at once; "fp32" is also called
from Python. The peers of `inside` are the layer's kernels as torch's profiler sees them: `ms` and
`launches` per call, and the `share` of all kernels' time.
"""
