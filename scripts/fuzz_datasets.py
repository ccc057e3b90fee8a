r"""Converts and checks random data sets, and compares what is written with what was drawn.

    .venv/bin/python scripts/fuzz_datasets.py --number 10000
    .venv/bin/python scripts/fuzz_datasets.py --number 1 --seed 4711  # the same data set again

Data set number k is made from the seed + k.  Each one that has a problem stays in --failures with
its files, what was written, and problems.txt; the exit status is then 1.  If the process itself
dies, the data set that it worked on is in the folder `running`.
"""
import argparse
import collections
import pathlib
import random
import re
import shutil
import sys
import traceback

_ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(_ROOT / 'tests'))

import official_ext  # noqa: E402, F401 (chooses Keras 2)
from official_ext.utils import argument_types  # noqa: E402
from official_ext.utils import command_line  # noqa: E402


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
      allow_abbrev=False)
  parser.add_argument('--number', type=argument_types.positive_int, default=1000, metavar='N',
                      help='how many data sets (1000)')
  parser.add_argument('--seed', type=argument_types.whole_number, default=0, metavar='S',
                      help='of the first data set (0)')
  parser.add_argument('--failures', type=pathlib.Path, default=pathlib.Path('runs/fuzz_datasets'),
                      metavar='DIR', help='folder for what fails (runs/fuzz_datasets)')
  return parser.parse_args()


def _problems(seed: int, folder: pathlib.Path) -> list[str]:
  """Makes and tries one data set; returns its problems, a traceback for an exception."""
  import dataset_fuzz  # imported here because it loads TensorFlow
  data = dataset_fuzz.random_data_set(random.Random(seed))
  folder.mkdir(parents=True)
  (folder / 'data_set.txt').write_text(f'seed {seed}\n{data}\n', encoding='utf-8')
  (folder / 'files').mkdir()
  try:
    return dataset_fuzz.problems_of(data, folder / 'files')
  except Exception:  # whatever a command raises is what is looked for
    return [traceback.format_exc()]


def _kind(problem: str) -> str:
  """Returns what problems of one kind have in common: the last line without names and numbers."""
  line = problem.strip().splitlines()[-1]
  return re.sub(r"\S*im\d+\S*|/\S+|'[^']*'|[\d.]+", '~', line)[:100]


def main() -> None:
  """Tries all data sets and prints how many of each kind have failed."""
  args = _arguments()
  running, kinds = args.failures / 'running', collections.Counter()
  seeds = range(args.seed, args.seed + args.number)
  failed = 0
  for seed in command_line.progress(seeds, 'data sets', args.number):
    shutil.rmtree(running, ignore_errors=True)
    problems = _problems(seed, running)
    if problems:
      failed += 1
      kinds.update({_kind(problem) for problem in problems})
      kept = args.failures / f'seed-{seed}'
      shutil.rmtree(kept, ignore_errors=True)
      running.rename(kept)
      (kept / 'problems.txt').write_text('\n'.join(problems), encoding='utf-8')
      command_line.say(f'seed {seed}: {problems[0].strip().splitlines()[-1][:200]}')
  shutil.rmtree(running, ignore_errors=True)
  for kind, count in kinds.most_common():
    command_line.say(f'{count:6} data sets: {kind}')
  command_line.say(f'{failed} of {args.number} data sets have a problem'
                   + (f'; they are in {args.failures}' if failed else ''))
  if failed:
    sys.exit(1)


if __name__ == '__main__':
  command_line.run(main)
