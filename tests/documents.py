"""Reads the pages of the project: their links, and the commands and options in them.

A command is a line of a code block that starts with an interpreter or a script.  Its arguments are
given to the parser of the program that it names, without running the program.
"""
import argparse
import functools
import pathlib
import re
import runpy
import shlex
import sys
import textwrap
from typing import NamedTuple
from unittest import mock
import warnings

CHECKOUT = pathlib.Path(__file__).resolve().parents[1]
PAGES = [CHECKOUT / 'README.md', CHECKOUT / 'CONTRIBUTING.md', CHECKOUT / 'CHANGELOG.md',
         *sorted((CHECKOUT / 'docs').glob('*.md')), *sorted(CHECKOUT.glob('data/*/SOURCE.md'))]
# What a command may start with before the program; `taskset -c 1` chooses a processor.
_STARTS = r'(?:taskset -c \d )?(?:(?:\.venv/bin/)?python |\.venv/bin/python\S* |scripts/|time )'
# Shell scripts that give their arguments to a Python program.
_PROGRAMS = {'scripts/quickstart.sh': 'scripts/quickstart.py'}


class Command(NamedTuple):
  """A command that a page shows.

  Attributes:
    page: name of the page.
    program: dotted module of the package, or a script of the checkout.
    arguments: what follows.
  """
  page: str
  program: str
  arguments: list[str]

  def __str__(self):
    return f'{self.page}: {self.program} {shlex.join(self.arguments)}'

  def values(self, flag: str) -> list[str]:
    """Returns the values of a flag, which may be given several times."""
    pairs = zip(self.arguments, [*self.arguments[1:], ''])
    return [text.partition('=')[2] if text.startswith(f'{flag}=') else following
            for text, following in pairs if text == flag or text.startswith(f'{flag}=')]


class _Captured(BaseException):
  """Ends a program in the moment that it reads its arguments."""

  def __init__(self, parser: argparse.ArgumentParser):
    super().__init__()
    self.parser = parser


def code_blocks(text: str) -> list[str]:
  """Returns the indented and the fenced blocks of a page, without their common indentation."""
  fenced = re.findall(r'^```\w*\n(.*?)^```$', text, re.MULTILINE | re.DOTALL)
  rest = re.sub(r'^```.*?^```$', '', text, flags=re.MULTILINE | re.DOTALL)
  indented = re.findall(r'(?:^|\n\n)((?: {4}.*\n|\n(?= {4}))+)', rest)
  return [textwrap.dedent(block) for block in [*fenced, *indented]]


def prose(text: str) -> str:
  """Returns a page without its code blocks."""
  text = re.sub(r'^```.*?^```$', '', text, flags=re.MULTILINE | re.DOTALL)
  return '\n'.join(line for line in text.splitlines() if not line.startswith('    '))


def commands(text: str, page: str) -> list[Command]:
  """Returns the commands of a page's code blocks that name a program of this project."""
  found = []
  for block in code_blocks(text):
    for line in block.replace('\\\n', '').splitlines():
      if not re.match(_STARTS, line):
        continue
      # In a docstring, brackets are around what may be left out.
      line = re.sub(r'\[(--[^\[\]]*)\]', r'\1', line)
      words = shlex.split(line, comments=True)
      while words and not re.match(r'scripts/|\S*python\d*$', words[0]):
        words.pop(0)  # taskset, time
      if words[1:2] == ['-m']:
        program, arguments = words[2], words[3:]
      elif words[0].startswith('scripts/'):
        program, arguments = words[0], words[1:]
      else:
        program, arguments = words[1], words[2:]
      if re.match(r'official_ext|scripts/\w|benchmarks/', program):
        found.append(Command(page, program, arguments))
  return found


def program_file(program: str) -> pathlib.Path:
  """Returns the file of a module or script, which need not exist."""
  program = _PROGRAMS.get(program, program)
  if program.startswith('official_ext'):
    return CHECKOUT / f'{program.replace(".", "/")}.py'
  return CHECKOUT / program


@functools.cache
def parser_of(program: str) -> argparse.ArgumentParser | None:
  """Returns the parser of a program; None for shell scripts and for flags of absl.

  The program runs until it reads its arguments.
  """
  path = program_file(program)
  if path.suffix != '.py' or program == 'official_ext.train':
    return None

  def capture(parser, *_):
    raise _Captured(parser)

  with warnings.catch_warnings(), \
      mock.patch.object(argparse.ArgumentParser, 'parse_args', capture), \
      mock.patch.object(sys, 'argv', [str(path)]), \
      mock.patch.object(sys, 'path', [str(path.parent), *sys.path]):
    # A module that another one has imported runs once more, as the program.
    warnings.simplefilter('ignore', RuntimeWarning)
    try:
      if program.startswith('official_ext'):
        runpy.run_module(program, run_name='__main__')
      else:
        runpy.run_path(str(path), run_name='__main__')
    except _Captured as captured:
      return captured.parser
  raise AssertionError(f'{program} has read no arguments.')


def targets(text: str) -> list[str]:
  """Returns what the links and pictures of a page point at."""
  text = re.sub(r'`[^`]*`', '', prose(text))
  return re.findall(r'\]\(([^)\s]+)\)', text) + re.findall(r'(?:src|srcset|href)="([^"]+)"', text)


def anchors(text: str) -> set[str]:
  """Returns the anchors of the headings of a page, as GitHub makes them."""
  headings = re.findall(r'^#+ (.+)$', prose(text), re.MULTILINE)
  return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}
