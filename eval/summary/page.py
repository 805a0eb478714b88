"""Pieces of the report's page: its style, tables, figures and pictures, all inside the one file."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

STYLE = """
:root { color-scheme: light; --line: #d5d8dc; --soft: #f4f6f8; --ink: #1b1f24; --dim: #57606a; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1180px; padding: 1rem clamp(.75rem, 3vw, 2rem) 4rem; color: var(--ink);
       font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "Noto Sans", "Liberation Sans", "DejaVu Sans", sans-serif;
       overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 1rem 0 .3rem; }
h2 { font-size: 1.3rem; margin: 2.6rem 0 .4rem; padding-top: .7rem; border-top: 2px solid var(--ink); }
h3 { font-size: 1.02rem; margin: 0 0 .5rem; }
p { margin: .4rem 0 .8rem; max-width: 75ch; }
.dim, figcaption, .legend { color: var(--dim); font-size: .88rem; }
.warning { border: 3px solid #b34700; background: #fff4e5; padding: .8rem 1rem; font-size: 1.08rem; max-width: none;
           font-weight: 600; border-radius: 6px; }
nav { font-size: .92rem; } nav a { margin-right: .9rem; white-space: nowrap; }
a { color: #00558a; }
.tiles { display: grid; gap: 1rem; margin: 1rem 0;
         grid-template-columns: repeat(auto-fit, minmax(min(100%, 165px), 1fr)); }
.cards { columns: 430px; column-gap: 1rem; margin: 1rem 0 0; } .cards .card { break-inside: avoid; margin: 0 0 1rem; }
.tile, .card { border: 1px solid var(--line); border-radius: 6px; padding: .8rem .9rem; background: #fff;
               min-width: 0; }
.tile { background: var(--soft); } .tile b { display: block; font-size: 1.55rem; line-height: 1.25; }
.tile span { display: block; font-size: .88rem; color: var(--dim); }
.plot { display: block; width: 100%; max-width: 560px; height: auto; font-family: inherit; }
.plot text { font-size: 11.5px; fill: var(--ink); } .plot .name { font-size: 12.5px; font-weight: 600; }
.plot .tick, .plot .value { fill: #3d444d; } .plot .track { stroke: #e3e6e9; } .plot .axis { stroke: #8b949e; }
.plot .at { stroke: #000; stroke-width: 1.4; stroke-dasharray: 4 3; }
.legend span { display: inline-block; margin-right: 1rem; } .legend svg { vertical-align: -2px; }
.pairs { display: grid; gap: .9rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 250px), 1fr)); }
.pairs figure { margin: 0; min-width: 0; } .pairs figcaption { line-height: 1.35; margin-top: .2rem; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 3px; }
.pair div { position: relative; } .pair img { width: 100%; display: block; background: #000; aspect-ratio: 1; }
.pair small { position: absolute; left: 3px; top: 3px; background: #000b; color: #fff; padding: 0 .3em;
              font-size: .72rem; }
.pair .unusable { margin: 0; padding: 1.6rem .4rem .4rem; border: 2px dashed #b34700; font-size: .78rem;
                  overflow-wrap: anywhere; }
.wide { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; margin: .4rem 0 1rem; }
th, td { text-align: left; padding: .28rem .7rem .28rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { border-bottom: 2px solid #8b949e; } td.n, th.n { text-align: right; } td.n { white-space: nowrap; }
td.note { min-width: 14rem; color: var(--dim); } #left-out td { overflow-wrap: anywhere; min-width: 5.5rem; }
.phantoms :is(h1, h2, h3)::after { content: " · phantoms"; }
summary { cursor: pointer; margin: .6rem 0; font-weight: 600; }
code { font-size: .86em; background: var(--soft); padding: .1em .25em; overflow-wrap: anywhere; }
@media (max-width: 480px) { .card, .tile { padding: .6rem .5rem; } .tiles { gap: .6rem; } }
@media print {
  body { font-size: 11pt; max-width: none; padding: 0; } nav { display: none; }
  .card, .tile, figure, tr, svg { break-inside: avoid; } h2, h3 { break-after: avoid; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } .wide { overflow: visible; }
}
"""


@dataclass(frozen=True)
class Html:
    """Text that is HTML already, in a cell of a table."""

    text: str


def page(title: str, body: Sequence[str], phantoms: bool = False) -> str:
    """A whole page that needs nothing else: no network, no scripts.

    Args:
        title: of the window.
        body: HTML.
        phantoms: whether every heading says so, for those who see a part of the page only.
    """
    start = '<body class="phantoms">' if phantoms else "<body>"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        'img-src data:">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style></head>\n{start}\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def section(anchor: str, title: str, *content: str) -> str:
    """A part of the page, with an anchor for the list at its top; empty without content."""
    inside = "\n".join(filter(None, content))
    return f'<section id="{anchor}"><h2>{escape(title)}</h2>\n{inside}</section>' if inside else ""


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of plain text."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def card(title: str, *content: str) -> str:
    """A framed box, with a heading where there is a title."""
    heading = f"<h3>{escape(title)}</h3>" if title else ""
    return f'<div class="card">{heading}{"".join(content)}</div>'


def cards(boxes: Sequence[str]) -> str:
    """Boxes side by side where there is room."""
    return f'<div class="cards">{"".join(boxes)}</div>' if boxes else ""


def tile(title: str, value: str, beside: str) -> str:
    """A number that matters, and what to hold it against."""
    return f'<div class="tile">{escape(title)}<b>{escape(value)}</b><span>{escape(beside)}</span></div>'


def table(header: Sequence[str], rows: Sequence[Sequence[str | Html | None]], numbers: Sequence[int] = ()) -> str:
    """A table that scrolls sideways by itself on narrow screens.

    Args:
        header: names of the columns.
        rows: cells as plain text, or as `Html`.
        numbers: columns that are aligned to the right.
    """
    if not rows:
        return ""
    kinds = ["n" if i in numbers else "note" if name == "note" else "" for i, name in enumerate(header)]
    top = "".join(f'<th class="{kind}">{escape(name)}</th>' for name, kind in zip(header, kinds, strict=True))
    lines = [
        "<tr>"
        + "".join(f'<td class="{kind}">{_cell(cell)}</td>' for cell, kind in zip(row, kinds, strict=True))
        + "</tr>"
        for row in rows
    ]
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _cell(cell: str | Html | None) -> str:
    return cell.text if isinstance(cell, Html) else escape(cell or "")


def details(title: str, content: str) -> str:
    """What is read on demand."""
    return f"<details><summary>{escape(title)}</summary>{content}</details>" if content else ""


def pairs(figures: Sequence[tuple[Path, str, Path, str, str]], size: int = 160) -> str:
    """Pictures two by two: path and name of the left one, path and name of the right one, and a caption.

    What cannot be shown is said in its place.
    """
    boxes = []
    for left, left_name, right, right_name, caption in figures:
        images = _picture(left, left_name, size) + _picture(right, right_name, size)
        boxes.append(f'<figure><div class="pair">{images}</div><figcaption>{escape(caption)}</figcaption></figure>')
    return f'<div class="pairs">{"".join(boxes)}</div>' if boxes else ""


def _picture(path: Path, name: str, size: int) -> str:
    from eval.inputs.images import Unusable

    try:
        shown = f'<img src="{thumbnail(path, size)}" alt="{escape(name)} radiograph">'
    except Unusable as problem:
        shown = f'<p class="unusable">{escape(f"{path.name} {problem}")}</p>'
    return f"<div>{shown}<small>{escape(name)}</small></div>"


def thumbnail(path: Path, size: int) -> str:
    """A grey picture of at most size × size pixels as a data address; what is not square is centred on black.

    Raises:
        Unusable: as `eval.loading.read_grey`.
    """
    from PIL import Image, ImageOps

    from eval.inputs.images import read_grey  # torch comes with it

    grey, _ = read_grey(path)
    grey = ImageOps.pad(grey, (min(size, max(grey.size)),) * 2, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    grey.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
