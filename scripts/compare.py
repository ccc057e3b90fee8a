"""Trains several networks on one data set and tables their accuracy beside their cost.

    .venv/bin/python scripts/compare.py necks --data=FOLDER --runs=fpn,fpn,fpn,drfpn,ifpn
    .venv/bin/python scripts/compare.py heads --data=FOLDER
    .venv/bin/python scripts/compare.py caddet --data=FOLDER --runs=none,fixed,dynamic
    .venv/bin/python scripts/compare.py parts --data=FOLDER
    .venv/bin/python scripts/compare.py detectors --data=FOLDER

All runs of a comparison are trained alike, with the schedule of its experiments; average precision
is that of Model Garden's evaluation (pycocotools) of the last weights on the validation images.
A run that is named several times is trained several times: its trainings differ in the order of
the images, the initial weights and the augmentation.  A finished run is kept in the output folder,
and a run that was interrupted goes on from its last checkpoint, so the command can be repeated,
also with more runs; other options or data want another folder.  The table and the time left are
printed after every run; table.md and table.json in the output folder are written at the end.
"""
import argparse
from collections.abc import Sequence
import inspect
import pathlib
import shlex
import sys

from comparisons import caddet
from comparisons import comparison
from comparisons import detectors
from comparisons import heads
from comparisons import necks
from comparisons import parts

from official_ext.utils import argument_types
from official_ext.utils import command_line

COMPARISONS = {
    'necks': necks.NeckComparison(),
    'heads': heads.HeadComparison(),
    'caddet': caddet.BudgetComparison(),
    'parts': parts.PartComparison(),
    'detectors': detectors.DetectorComparison(),
}


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
      description=__doc__, allow_abbrev=False,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  kinds = parser.add_subparsers(dest='kind', required=True, metavar='KIND',
                                help=f'one of {", ".join(COMPARISONS)}; each has its own --help')
  for kind, compared in COMPARISONS.items():
    text = inspect.getdoc(compared)
    sub = kinds.add_parser(kind, help=text.splitlines()[0], description=text, allow_abbrev=False,
                           formatter_class=argparse.RawDescriptionHelpFormatter)
    sub.add_argument('--data', type=pathlib.Path, required=True, metavar='FOLDER',
                     help='data set in COCO, Pascal VOC or CSV layout')
    sub.add_argument('--runs', default=','.join(compared.default_runs), metavar='A,B,...',
                     help=f'any of {compared.allowed}; default: {", ".join(compared.default_runs)}')
    sub.add_argument('--train_steps', type=argument_types.positive_int, metavar='N',
                     help='default: what the experiments say')
    output_dir = pathlib.Path('runs') / kind
    sub.add_argument('--output_dir', type=pathlib.Path, default=output_dir, metavar='DIR',
                     help=f'default: {output_dir}')
    compared.add_arguments(sub)
  arguments = sys.argv[1:] if arguments is None else arguments
  return parser.parse_args(arguments, argparse.Namespace(command=shlex.join(arguments)))


def main(arguments: Sequence[str] | None = None) -> None:
  """Trains what is not trained yet, and writes the table.

  Args:
    arguments: of the command line; None: those of the process.
  """
  args = _arguments(arguments)
  comparison.run_all(COMPARISONS[args.kind], args.runs.split(','), args)


if __name__ == '__main__':
  command_line.run(main)
