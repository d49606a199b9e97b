"""Pictures that need no run: threads and blocks, a GPU's memories, what a barrier does."""

import plotly.graph_objects as go

from mini_moe.views.style import OKABE_ITO, new_figure

WARP = 32
# An H100 SXM. Source: NVIDIA H100 data sheet; CUDA C++ Programming Guide, compute capability 9.0.
H100 = {"sms": 132, "terabytes_a_second": 3.35, "shared_kb": 228, "registers_kb": 256, "gb": 80}
FAST, SLOW, WAIT = OKABE_ITO[0], OKABE_ITO[1], "#BBBBBB"


def threads_picture(grid: int, block: int, n: int) -> go.Figure:
    """Draw every thread of a launch as a cell with its i = blockIdx.x · blockDim.x + threadIdx.x.

    Each row is a warp; grey threads have i ≥ n and nothing to do.
    """
    warps = -(-block // WARP)
    colour, text, names = [], [], []
    for b in range(grid):
        for w in range(warps):
            numbers = [b * block + w * WARP + lane for lane in range(min(WARP, block - w * WARP))]
            names.append(f"block {b}, warp {w}")
            colour.append([0.0 if i >= n else 1 + b % 2 for i in numbers])
            text.append([str(i) for i in numbers])
    summary = (
        f"{grid} blocks of {block} threads, {warps} warps per block: {grid * block} threads for "
        f"{n} numbers; {grid * block - n} have nothing to do."
    )
    title = "i for every thread"
    figure = new_figure(summary, width=820, height=110 + 30 * len(names), title_text=title)
    scale = [(n / 3 + e / 3, c) for n, c in enumerate(("#E3E3E3", "#CFE6F5", "#FBE3C0"))
             for e in (0, 1)]  # fmt: skip
    figure.add_trace(go.Heatmap(
        z=colour, text=text, texttemplate="%{text}", textfont={"size": 10, "color": "#222222"},
        colorscale=scale, zmin=0, zmax=2, showscale=False, xgap=1, ygap=3, hoverinfo="skip",
        name="i",
    ))  # fmt: skip
    figure.update_xaxes(title_text="lane", dtick=4, showgrid=False)
    figure.update_yaxes(
        tickvals=list(range(len(names))), ticktext=names, autorange="reversed", showgrid=False
    )
    return figure


def memory_picture() -> go.Figure:
    """Draw the three memories: a thread's registers, a block's shared memory, global memory."""
    summary = (
        "Each thread has its own registers; the threads of a block share a fast memory; all blocks "
        f"share global memory. An H100 has {H100['sms']} processors (SMs), {H100['shared_kb']} KB "
        f"of shared memory in each, and {H100['gb']} GB at {H100['terabytes_a_second']} TB/s."
    )
    figure = new_figure(summary, width=820, height=370)
    for n in range(2):
        left = 0.3 + 5 * n
        _box(figure, left, 1.9, left + 4.4, 5.6, "#F7F7F7", "")
        figure.add_annotation(x=left + 2.2, y=5.35, showarrow=False, font={"size": 13},
                              text=f"block {n}, on one of the processors (SMs)")  # fmt: skip
        for t in range(4):
            x = left + 0.2 + 1.02 * t
            _box(figure, x, 3.5, x + 0.94, 5.0, "#CFE6F5", f"thread {t}<br>registers")
        _box(figure, left + 0.2, 2.1, left + 4.2, 3.2, "#FBE3C0",
             f"shared memory, up to {H100['shared_kb']} KB per SM<br>32 banks of 4 bytes per "
             "cycle")  # fmt: skip
    _box(figure, 0.3, 0.2, 9.7, 1.4, "#E3DDF0",
         f"global memory, {H100['gb']} GB, moved in sectors of 32 bytes, "
         f"{H100['terabytes_a_second']} TB/s for all {H100['sms']} SMs together")  # fmt: skip
    figure.update_xaxes(visible=False, range=[0, 10])
    figure.update_yaxes(visible=False, range=[0, 5.8])
    figure.update_layout(margin={"l": 10, "r": 10, "t": 10, "b": 10})
    return figure


def _box(
    figure: go.Figure, x0: float, y0: float, x1: float, y1: float, colour: str, text: str
) -> None:
    figure.add_shape(
        type="rect", x0=x0, y0=y0, x1=x1, y1=y1, fillcolor=colour, line={"color": "#777777"},
        layer="below",
    )  # fmt: skip
    figure.add_annotation(
        x=(x0 + x1) / 2, y=(y0 + y1) / 2, text=text, showarrow=False, font={"size": 13}
    )


def barrier_picture(stores: tuple[int | float, ...] = (1, 3, 1.5, 4, 2)) -> go.Figure:
    """Draw warps that store and then read their neighbour's numbers, without and with a barrier.

    `stores` gives when each warp has stored. A read before the neighbour's store is too early.
    """
    warps, last = len(stores), max(stores)
    early = sum(
        stores[t] + 0.6 < stores[t - 1] for t in range(1, warps)
    )  # warp t reads what warp t - 1 stores
    summary = (
        f"Without a barrier {early} of {warps - 1} warps read before their neighbour has "
        "stored; with one, all wait for the slowest and no read is too early."
    )
    figure = new_figure(summary, width=820, height=330, showlegend=True)
    marks: dict[str, tuple[list, list]] = {"stores": ([], []), "reads": ([], [])}
    marks["reads too early"] = ([], [])
    for panel, offset in enumerate((0.0, 7.0)):
        for t, stored in enumerate(stores):
            read = offset + (last if panel else stored) + 0.6
            too_early = not panel and t and stored + 0.6 < stores[t - 1]
            for name, x in (("stores", offset + stored),
                            ("reads too early" if too_early else "reads", read)):  # fmt: skip
                marks[name][0].append(x)
                marks[name][1].append(t)
            if panel:
                figure.add_shape(type="line", x0=offset + stored, x1=offset + last, y0=t, y1=t,
                                 line={"color": WAIT, "width": 5}, layer="below")  # fmt: skip
    figure.add_vline(x=7.0 + last + 0.25, line={"color": "#000000", "width": 3})
    for x, text in ((2.6, "no barrier"), (9.6, "with __syncthreads()")):
        figure.add_annotation(x=x, y=-0.9, text=text, showarrow=False, font={"size": 15})
    styles = (("stores", FAST, "square"), ("reads", OKABE_ITO[2], "circle"),
              ("reads too early", SLOW, "x"))  # fmt: skip
    for name, colour, symbol in styles:
        figure.add_scatter(x=marks[name][0], y=marks[name][1], mode="markers", name=name,
                           marker={"size": 13, "color": colour, "symbol": symbol})  # fmt: skip
    figure.update_xaxes(title_text="time →", showticklabels=False, range=[0.3, 12.2], ticks="",
                        showgrid=False)  # fmt: skip
    figure.update_yaxes(
        tickvals=list(range(warps)), ticktext=[f"warp {t}" for t in range(warps)],
        range=[warps - 0.5, -1.4], showgrid=False,
    )  # fmt: skip
    figure.update_layout(
        margin_t=20,
        margin_r=30,
        legend={"orientation": "h", "y": -0.22, "x": 1, "xanchor": "right"},
    )
    return figure
