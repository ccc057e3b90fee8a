r"""Makes small mistakes in copies of the package, one at a time: a test must fail for each.

    .venv/bin/python scripts/check_mutations.py  # all of `mutations.py`
    .venv/bin/python scripts/check_mutations.py --only caddet  # those whose path has this text

The test that fails must pass again without the mistake.  The checkout is not touched; all mistakes
take about twenty minutes on two cores.  The exit status is 1 if one was not noticed.
"""
import argparse
import concurrent.futures
import os
import pathlib
import queue
import re
import shutil
import subprocess
import sys
import tempfile

import mutation as mutation_lib
import mutations

import official_ext  # noqa: F401 (chooses Keras 2)
from official_ext.utils import command_line

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_PASSED, _FAILED = 0, 1  # pytest's exit status; with any other the tests did not run
_FAILED_TEST = re.compile(r'^(?:FAILED|ERROR) (.+?)(?: - |$)', re.MULTILINE)


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
      allow_abbrev=False)
  parser.add_argument('--only', default='', metavar='TEXT',
                      help='only mutations whose path has this text')
  parser.add_argument('--workers', type=int, default=os.cpu_count() or 1, metavar='N',
                      help='mutations at once; default: one for each core')
  return parser.parse_args()


def apply(mutation: mutation_lib.Mutation, root: pathlib.Path) -> tuple[pathlib.Path, str]:
  """Makes the mistake below `root` and returns the file and its text before.

  Raises:
    ValueError: the file has the text `mutation.old` never or more than once.
  """
  path = root / 'official_ext' / mutation.path
  text = path.read_text(encoding='utf-8')
  if text.count(mutation.old) != 1:
    raise ValueError(f'{mutation.path} has {mutation.old!r} {text.count(mutation.old)} times, not '
                     'once: change scripts/mutations.py or network_mutations.py.')
  path.write_text(text.replace(mutation.old, mutation.new), encoding='utf-8')
  return path, text


def _copy(root: pathlib.Path) -> pathlib.Path:
  """Copies all that tests need to a new folder and returns the folder."""
  root.mkdir()
  for folder in ('official_ext', 'tests', 'scripts', 'benchmarks', 'configs', 'data'):
    shutil.copytree(_ROOT / folder, root / folder)
  shutil.copy(_ROOT / 'pyproject.toml', root)
  return root


def _pytest(root: pathlib.Path, tests: str) -> 'subprocess.CompletedProcess[str]':
  return subprocess.run(
      [sys.executable, '-m', 'pytest', '-n0', '-x', '-q', '-p', 'no:cacheprovider', tests],
      cwd=root, capture_output=True, text=True, check=False,
      env={**os.environ, 'PYTHONPATH': str(root), 'PYTHONDONTWRITEBYTECODE': '1'})


def _try(mutation: mutation_lib.Mutation, copies: 'queue.Queue[pathlib.Path]') -> str:
  """Returns `noticed`, or why the tests did not notice a mistake."""
  root = copies.get()
  try:
    path, text = apply(mutation, root)
    try:
      result = _pytest(root, f'tests/{mutation.tests}')
    finally:
      path.write_text(text, encoding='utf-8')
    if result.returncode == _PASSED:
      return 'NOT NOTICED'
    failed = _FAILED_TEST.search(result.stdout)
    if result.returncode != _FAILED or not failed:
      return f'NO RESULT\n{result.stdout[-2000:]}'
    # A test that fails without the mistake as well does not notice it.
    again = _pytest(root, failed[1])
    return 'noticed' if again.returncode == _PASSED else f'FAILS ANYWAY: {failed[1]}'
  finally:
    copies.put(root)


def main() -> None:
  """Tries the mutations and prints those that were not noticed."""
  arguments = _arguments()
  chosen = [one for one in mutations.MUTATIONS if arguments.only in one.path]
  if not chosen:
    sys.exit(f'--only={arguments.only}: no mutation is in such a path.')
  wrong: list[str] = []
  with tempfile.TemporaryDirectory() as folder:
    copies: queue.Queue[pathlib.Path] = queue.Queue()
    for worker in range(arguments.workers):
      copies.put(_copy(pathlib.Path(folder) / str(worker)))
    with concurrent.futures.ThreadPoolExecutor(arguments.workers) as pool:
      results = pool.map(lambda mutation: _try(mutation, copies), chosen)
      for mutation, result in zip(chosen, command_line.progress(results, 'trying', len(chosen))):
        if result != 'noticed':
          wrong.append(f'{mutation.path}: {mutation.old!r} -> {mutation.new!r}, '
                       f'{mutation.tests}: {result}')
          command_line.say(f'\n{wrong[-1]}')
  command_line.say(f'{len(chosen) - len(wrong)} of {len(chosen)} mistakes are noticed.')
  sys.exit(bool(wrong))


if __name__ == '__main__':
  main()
