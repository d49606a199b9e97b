"""A row of chips to click or step through with the arrow keys: tokens of a text, or experts."""

import html
from typing import Any

import anywidget
import traitlets

# One listener for all chips; nodes are reused and only changes are written, so nothing flickers.
# All text goes through textContent and title, so hostile text stays text.
_ESM = """
function render({ model, el }) {
  const box = document.createElement("div");
  box.className = "moe-chips";
  box.tabIndex = 0;
  box.dir = "ltr";
  box.setAttribute("role", "listbox");
  box.setAttribute("data-lm-suppress-shortcuts", "true");
  const caption = document.createElement("div");
  const name = "moe-" + Math.random().toString(36).slice(2);
  const put = (node, key, value) => { if (node[key] !== value) node[key] = value; };

  function add(n) {
    const chip = document.createElement("span");
    chip.dataset.n = n;
    chip.id = name + "-" + n;
    chip.setAttribute("role", "option");
    const piece = document.createElement("bdi");
    const label = document.createElement("small");
    const inner = document.createElement("span");
    inner.append(piece, label);
    chip.append(inner);
    box.append(chip);
    return chip;
  }
  function draw() {
    const items = model.get("items"), selected = model.get("selected");
    while (box.children.length > items.length) box.lastChild.remove();
    items.forEach((item, n) => {
      const chip = box.children[n] || add(n), [piece, label] = chip.firstChild.children;
      put(piece, "textContent", item.text);
      put(label, "textContent", item.label);
      put(chip.firstChild, "title", item.title);
      put(piece.style, "backgroundColor", item.colour);
      put(piece.style, "color", item.ink);
      put(chip, "className", (item.off ? "off " : "") + (item.end ? "end " : "")
        + (n === selected ? "here" : ""));
      chip.setAttribute("aria-selected", n === selected);
      chip.setAttribute("aria-label", item.title);
    });
    put(box, "className", "moe-chips" + (model.get("large") ? " large" : ""));
    put(caption, "textContent", model.get("name"));
    put(caption, "className", "moe-caption" + (model.get("large") ? " large" : ""));
    box.setAttribute("aria-label", model.get("name"));
    box.setAttribute("aria-activedescendant", name + "-" + selected);
    see();
  }
  function see() {  // scroll to the selected chip without scrolling the page
    const chip = box.children[model.get("selected")]?.firstChild;
    if (!chip) return;
    const above = chip.offsetTop < box.scrollTop;
    if (above || chip.offsetTop + chip.offsetHeight > box.scrollTop + box.clientHeight)
      box.scrollTop = chip.offsetTop - box.clientHeight / 2;
  }
  function choose(n) {
    const last = model.get("items").length - 1;
    model.set("selected", Math.max(0, Math.min(last, n)));
    model.save_changes();
  }
  const click = event => {
    const chip = event.target.closest("[data-n]");
    if (chip) choose(Number(chip.dataset.n));
  };
  const key = event => {
    const now = model.get("selected"), last = model.get("items").length - 1;
    const to = { ArrowLeft: now - 1, ArrowRight: now + 1, ArrowUp: now - 1, ArrowDown: now + 1,
                 Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    choose(to);
  };
  box.addEventListener("click", click);
  box.addEventListener("keydown", key);
  for (const trait of ["items", "selected", "large", "name"]) model.on("change:" + trait, draw);
  el.append(caption, box);
  draw();
  const resized = new ResizeObserver(see);
  resized.observe(box);
  return () => {
    resized.disconnect();
    for (const trait of ["items", "selected", "large", "name"]) model.off("change:" + trait, draw);
  };
}
export default { render };
"""

_CSS = """
.moe-chips { line-height: 1.15; font-size: 15px; padding: 4px; max-height: 330px;
  overflow-y: auto; border-radius: 4px; position: relative; }
.moe-chips:focus-visible { outline: 2px solid #0072B2; }
.moe-chips > span > span { display: inline-block; text-align: center; margin: 2px 1px 3px;
  padding: 2px; border: 2px solid transparent; border-radius: 5px; cursor: pointer; }
.moe-chips bdi { display: block; white-space: pre; border-radius: 3px; padding: 2px 4px;
  min-width: 0.6em; min-height: 1.15em; }
.moe-chips small { display: block; font-size: 11px; white-space: pre; }
.moe-chips > .end::after { content: "\\A"; white-space: pre; }
.moe-chips > .here > span { border-color: currentColor; background: rgba(128, 128, 128, 0.22); }
.moe-chips > .here small { font-weight: 700; }
.moe-chips > .off bdi { text-decoration: line-through 2px; border: 1px dashed currentColor; }
.moe-caption { font-size: 13px; padding: 0 5px; opacity: 0.8; }
.moe-caption.large { font-size: 20px; }
.moe-chips.large { font-size: 28px; max-height: 480px; }
.moe-chips.large small { font-size: 20px; }
"""


class Chips(anywidget.AnyWidget):
    """A row of chips, one of them selected. Items are {text, label, title, colour, ink, off, end}.

    `off` strikes the text through, `end` starts a new line after it.
    """

    _esm, _css = _ESM, _CSS
    items = traitlets.List(traitlets.Dict()).tag(sync=True)
    selected = traitlets.Int(0).tag(sync=True)
    large = traitlets.Bool(False).tag(sync=True)
    name = traitlets.Unicode("").tag(sync=True)  # a caption, also read by screen readers

    def show(self, items: list[dict[str, Any]], selected: int, name: str) -> None:
        """Set items, selection and caption in one message."""
        with self.hold_sync():
            self.items, self.selected, self.name = items, selected, name

    def still(self) -> str:
        """Return the chips as plain HTML, for use without widgets."""
        boxes = []
        for n, item in enumerate(self.items):
            frame = "outline:2px solid #000;" if n == self.selected else ""
            struck = "text-decoration:line-through;" if item["off"] else ""
            boxes.append(
                '<span style="display:inline-block;text-align:center;margin:2px">'
                f'<span style="display:block;white-space:pre;padding:2px 4px;{frame}{struck}'
                f'background:{item["colour"]};color:{item["ink"]}">{html.escape(item["text"])}'
                f"</span><small>{html.escape(item['label'])}</small></span>"
                + ("<br>" if item["end"] else "")
            )
        return f"<div><div>{html.escape(self.name)}</div>{''.join(boxes)}</div>"


def chip(
    text: str, label: str, title: str, colour: str, ink: str, off: bool = False, end: bool = False
) -> dict[str, Any]:  # fmt: skip
    """Make one item of `Chips`."""
    return {"text": text, "label": label, "title": title, "colour": colour, "ink": ink,
            "off": off, "end": end}  # fmt: skip
