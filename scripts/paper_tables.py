"""Writes the tables of docs/reproduce.md: which YAML file of configs/ is which row of which paper.

    .venv/bin/python scripts/paper_tables.py  # writes the page
    .venv/bin/python scripts/paper_tables.py --print  # prints the tables

Everything is what the comments of the files say.
"""
import argparse
import pathlib
import re

from official_ext.utils import model_cards

_CHECKOUT = pathlib.Path(__file__).resolve().parents[1]
_PAGE = _CHECKOUT / 'docs' / 'reproduce.md'
_MARKER = '<!-- What follows is written by scripts/paper_tables.py. -->\n'
_HEADER = '| file in `configs/` | row of the paper | published |\n|---|---|---|\n'


def _row(path: pathlib.Path, row: str, results: list[str]) -> str:
  name = path.relative_to(_CHECKOUT / 'configs').as_posix().removesuffix('.yaml')
  figures = ' '.join(re.sub(r'^Published,? ?(there, )?', '', result) for result in results)
  return f'| `{name}` | {row} | {figures.rstrip(".")} |\n'


def tables() -> str:
  """Returns the tables of all papers as Markdown, the papers with the most rows first."""
  rows: dict[str, list[str]] = {}
  for path in sorted((_CHECKOUT / 'configs').glob('*/*.yaml')):
    published = model_cards.read_comment(path)
    found = published and re.fullmatch(r'(.*?) \((arxiv\.org\S+)\),? (.*)', published.source)
    if not found:
      raise ValueError(f'{path}: the comment must begin with a paper and its address in '
                       'parentheses, such as "DyFPN (arxiv.org/abs/2012.00779), Table 1, row ...", '
                       'and quote what is published, as other files of configs/ do.')
    paper, row = f'[{found[1]}](https://{found[2]})', found[3].rstrip('.')
    rows.setdefault(paper, []).append(_row(path, row, published.results))
  return '\n'.join(f'## {paper}\n\n{_HEADER}{"".join(lines)}'
                   for paper, lines in sorted(rows.items(), key=lambda item: -len(item[1])))


def page(text: str) -> str:
  """Returns a page whose part after the marker is made anew."""
  head, marker, _ = text.partition(_MARKER)
  return f'{head}{marker}\n{tables()}'


def main() -> None:
  """Runs the command."""
  parser = argparse.ArgumentParser(
      description=__doc__, allow_abbrev=False,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--print', action='store_true', help='print the tables, write nothing')
  args = parser.parse_args()
  if args.print:
    print(tables())
  else:
    _PAGE.write_text(page(_PAGE.read_text(encoding='utf-8')), encoding='utf-8')


if __name__ == '__main__':
  main()
