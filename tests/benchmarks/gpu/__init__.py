"""One command that builds, checks and times every kernel on an NVIDIA GPU, in under ten minutes.

    python -m tests.benchmarks.gpu [--quick] [--only PART …] [--seconds 570] [--out FOLDER]
    python -m tests.benchmarks.gpu --render results/gpu_DEVICE.json      the tables as markdown

It writes `tests/benchmarks/results/gpu_DEVICE.json`:

    benchmark, command      "gpu", and what was typed
    machine                 date, device, capability, memory_gb, multiprocessors, l2_mb, driver,
                            cuda, commit, python, torch, triton, transformers
    before, after           sm_mhz, memory_mhz, power_w, celsius as nvidia-smi reads them, or {}
    readings                the same at the end of each part, by its name
    build                   extension, launchers: {ok, seconds, text}
    check                   tests: {ok, passed, failed, skipped, seconds, text}; memcheck,
                            racecheck, initcheck, synccheck: {ok, text}; null: could not run
    rows                    every measurement, in the order in which it was made
    targets                 {target, where, wanted, got, met}; got and met are null if not measured
    left_out                what the time did not allow, and parts that ended early
    seconds                 of each part, and total

A row is one peer in one case; those of a case stand together: `part` (ceiling, gate, sort, permute,
combine, grouped_gemm, layer, ladder, training), `case` (sizes, and what else tells cases apart:
routing, loads, operation, pass, mode), `peer`, and either `why_not`, or `ms`, `ms_low`, `ms_high`
(median and quartiles) with `runs`, and where they mean something `tflop_s`, `gb_s`, `tokens_s` and
`error` (‖out − expected‖ / ‖expected‖). A layer's mode is "call", timed as Python calls it, or
"graph", its launches replayed at once; "fp32" is called like the first.
"""
