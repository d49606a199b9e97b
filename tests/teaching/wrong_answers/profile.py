"""Wrong answers to the exercises of 13_profile about time."""


def whole_times(spans):
    own = {}
    for name, begin, end in spans:
        own[name] = own.get(name, 0) + end - begin
    return own


def forgets_repeats(spans):
    own, open_now = {}, []
    for name, begin, end in spans:
        while open_now and open_now[-1][1] <= begin:
            open_now.pop()
        own[name] = end - begin
        if open_now:
            own[open_now[-1][0]] -= end - begin
        open_now.append((name, end))
    return own


def takes_off_grandchildren(spans):
    own, open_now = {}, []
    for name, begin, end in spans:
        while open_now and open_now[-1][1] <= begin:
            open_now.pop()
        own[name] = own.get(name, 0) + end - begin
        for outer, _ in open_now:
            own[outer] -= end - begin
        open_now.append((name, end))
    return own


def keeps_a_touching_span_open(spans):
    own, open_now = {}, []
    for name, begin, end in spans:
        while open_now and open_now[-1][1] < begin:
            open_now.pop()
        own[name] = own.get(name, 0) + end - begin
        if open_now:
            own[open_now[-1][0]] -= end - begin
        open_now.append((name, end))
    return own


def limit(flops, n_bytes, calls, peak, bandwidth, call_seconds):
    return {
        "compute": flops / peak,
        "bytes": n_bytes / bandwidth,
        "calls": calls * call_seconds,
    }


def smallest(*arguments):
    seconds = limit(*arguments)
    return min(seconds, key=seconds.get)


def without_calls(flops, n_bytes, calls, peak, bandwidth, call_seconds):
    return "compute" if flops / n_bytes > peak / bandwidth else "bytes"


WRONG = {
    "own_microseconds": {
        "counts what lies inside twice": (whole_times, "counted for both"),
        "forgets that a name comes twice": (forgets_repeats, "comes twice"),
        "takes grandchildren off as well": (takes_off_grandchildren, "directly inside"),
        "keeps a span open that just ended": (keeps_a_touching_span_open, "µs"),
        "returns a list": (lambda spans: [1] * len(spans), "a dict of names"),
    },
    "amdahl": {
        "exchanges the shares": (lambda s, f: 1 / (s + (1 - s) / f), "exchanged"),
        "averages the gains": (lambda s, f: 1 - s + s * f, "don't average"),
        "lets the part vanish": (lambda s, f: 1 / (1 - s), "vanishes"),
        "forgets the rest": (lambda s, f: f, "the whole would have to be"),
        "returns the time": (lambda s, f: 1 - s + s / f, "new time"),
    },
    "nearest_limit": {
        "takes the smallest": (smallest, "asks for most"),
        "forgets the calls": (without_calls, "900 calls"),
        "returns the seconds": (lambda *a: max(limit(*a).values()), "a name expected"),
        "compares bytes with FLOPs": (
            lambda f, b, c, p, w, s: max({"compute": f, "bytes": b, "calls": c}.items(),
                                         key=lambda item: item[1])[0],
            "asks for most",
        ),
        "always compute": (lambda *a: "compute", "asks for most"),
    },
}  # fmt: skip
