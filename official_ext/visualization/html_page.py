"""Writes a self-contained HTML page of texts, tables and pictures."""
import base64
from collections.abc import Sequence
import html
import io
from typing import Any

from matplotlib import figure
import numpy as np
from PIL import Image

# Colors follow the reader's choice of a light or a dark page; a table that is too wide scrolls
# inside of its own box, and the long name of an experiment goes on in the next line.
_STYLE = """
:root {color-scheme: light dark; --text: #1c2733; --page: #ffffff; --faint: #57606a;
       --line: #d8dee4}
@media (prefers-color-scheme: dark) {
  :root {--text: #dde4ea; --page: #14191f; --faint: #9aa7b3; --line: #3a444e}}
body {font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em;
      color: var(--text); background: var(--page); overflow-wrap: break-word}
h1 {font-size: 1.7em}
h2 {font-size: 1.25em; margin-top: 2em; border-bottom: 1px solid var(--line)}
img {max-width: 100%} figure {margin: 1em 0} figcaption {color: var(--faint)}
.table {overflow-x: auto} table {border-collapse: collapse}
td, th {border: 1px solid var(--line); padding: .3em .7em; text-align: right}
td:first-child, th:first-child {text-align: left}
"""


class HtmlPage:
  """Collects texts, tables and pictures into one HTML page."""

  def __init__(self, title: str):
    self._title = title
    self._sections: list[str] = []

  def heading(self, text: str) -> None:
    """Starts a section."""
    self._sections.append(f'<h2>{html.escape(text)}</h2>')

  def text(self, text: str) -> None:
    """Adds a paragraph."""
    self._sections.append(f'<p>{html.escape(text)}</p>')

  def table(self, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Adds a table; the first column holds names and is aligned to the left."""

    def line(cells, tag):
      cells = (f'<{tag}>{html.escape(str(cell))}</{tag}>' for cell in cells)
      return f'<tr>{"".join(cells)}</tr>'

    body = ''.join(line(row, 'td') for row in rows)
    self._sections.append(f'<div class="table"><table>{line(header, "th")}{body}</table></div>')

  def image(self, image: np.ndarray, caption: str) -> None:
    """Adds an image, uint8 `[height, width, 3]`."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, 'JPEG', quality=88)
    self._embed(buffer, 'jpeg', caption)

  def figure(self, plot: figure.Figure, caption: str) -> None:
    """Adds a Matplotlib figure."""
    buffer = io.BytesIO()
    plot.savefig(buffer, format='png', dpi=110, bbox_inches='tight')
    self._embed(buffer, 'png', caption)

  def _embed(self, buffer: io.BytesIO, kind: str, caption: str) -> None:
    data = base64.b64encode(buffer.getvalue()).decode()
    caption = html.escape(caption)
    self._sections.append(f'<figure><img alt="{caption}" src="data:image/{kind};base64,{data}">'
                       f'<figcaption>{caption}</figcaption></figure>')

  def html(self) -> str:
    """Returns the page; its pictures are embedded."""
    title = html.escape(self._title)
    return ('<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width">'
            f'<title>{title}</title><style>{_STYLE}</style></head>'
            f'<body><h1>{title}</h1>{"".join(self._sections)}</body></html>')
