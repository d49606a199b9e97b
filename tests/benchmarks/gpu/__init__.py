"""One command that builds, checks and times every kernel on an NVIDIA GPU, in a few minutes.

    python -m tests.benchmarks.gpu [--quick] [--only PART …] [--seconds 240] [--out FOLDER]
    python -m tests.benchmarks.gpu --render results/gpu_DEVICE.json      the tables as markdown

It needs the Python that is there with torch and pytest, nvcc, and no network. The default time is
enough to build, to ask which tiles are faster, and to check; a second call times the rest:

    python -m tests.benchmarks.gpu --seconds 300 --out FOLDER2 \\
      --only kernels layer products ladder training shapes

It writes `gpu_DEVICE.json` into the folder, by default `tests/benchmarks/results`:

    benchmark, command      "gpu", and what was typed
    machine                 date, device, capability, memory_gb, multiprocessors, l2_mb, driver,
                            cuda, commit, sources (their fingerprint), python, torch, triton,
                            transformers
    before                  sm_mhz, memory_mhz, power_w, celsius as nvidia-smi reads them, or {}
    readings                of each part, by its name: the same, medians while it worked, with
                            sm_mhz_low and the number of readings
    build                   extension, launchers: {ok, seconds, text}
    check                   tests: {ok, passed, failed, skipped, seconds, text}; memcheck,
                            racecheck, initcheck, synccheck: {ok, text}; null: could not run
    rows                    every measurement, in the order in which it was made
    targets                 {target, where, wanted, got, met}; got and met are null if not measured
    left_out                what the time did not allow, and parts that ended early
    seconds                 of each part, and total

A row is one peer in one case; those of a case stand together: `part` (tiles, ceiling, gate, router,
sort, permute, combine, grouped_gemm, layer, inside, ladder, training), `case` (sizes, and what else
tells cases apart: routing, loads, operation, pass, mode), `peer`, and either `why_not`, or `ms`,
`ms_low`, `ms_high` (median and quartiles) with `runs`, and where they mean something `tflop_s`,
`gb_s`, `tokens_s` and `error` (‖out − expected‖ / ‖expected‖). A layer's mode is "call", timed as
Python calls it, or "graph", its launches replayed at once; "fp32" is called like the first. The
peers of `inside` are the layer's kernels by torch's profiler: `ms` and `launches` of one call, and
the `share` of all kernels' time.
"""
