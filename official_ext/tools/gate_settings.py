"""How much of a network with gates a command lets run: a threshold, a budget, or a limit."""
import argparse
from collections.abc import Iterator
import contextlib
from typing import Any

from official_ext.utils import argument_types
from official_ext.utils import command_line


def add_arguments(parser: argparse.ArgumentParser, limits: bool = False) -> None:
  """Adds the arguments, of which a command takes one at most.

  Args:
    parser: the command's.
    limits: whether to add `--max_ms` and `--max_gmac` too.
  """
  group = parser.add_mutually_exclusive_group()
  group.add_argument('--gate_threshold', type=argument_types.threshold, default=0.0, metavar='T',
                     help='gates up to this value count as shut: less time, less accuracy; from '
                     '0, as trained, to 1, every gate shut')
  group.add_argument('--budget', type=argument_types.threshold, metavar='B',
                     help='for networks with budget_input, the share of what gates can save that '
                     'runs: from 0, every gate shut, to 1, every gate open (1, or the '
                     '--default_budget of the export)')
  if limits:
    group.add_argument('--max_ms', type=argument_types.positive_number, metavar='MS',
                       help='the largest budget at which --batch_size images took at most so many '
                       'milliseconds, by the table that tools.frontier --calibrate has written '
                       'into the export')
    group.add_argument('--max_gmac', type=argument_types.positive_number, metavar='GMAC',
                       help='the largest budget at which images cost at most so many 10^9 '
                       'multiply-adds on average, by the same table')


def apply(detector: Any, args: argparse.Namespace, what: str) -> float | None:
  """Gives a detector the threshold, the budget, or the largest budget that fits a limit.

  Of a limit it says which budget that is, and what to expect of it.

  Args:
    detector: of `serving.detectors`; for a limit, a `SavedDetector`.
    args: with what `add_arguments` adds, and `batch_size` beside limits.
    what: the detector, in the words of the command line.

  Returns:
    The budget, which is the export's default if none is given; None if it has none.

  Raises:
    CommandError: the detector does not take what is given, no budget fits a limit, or the export
      has no table of what budgets cost.
  """
  from official_ext.serving import budget_table
  if args.gate_threshold:
    _check_threshold(detector.set_gate_threshold(args.gate_threshold), what)
  budget = args.budget
  for flag in ('--max_ms', '--max_gmac'):
    value = getattr(args, flag.removeprefix('--'), None)
    if value is not None:
      point, text = budget_table.choose(
          detector, budget_table.Limit(flag, value), args.batch_size, what)
      budget = point['budget']
      command_line.say(text)
  if budget is not None:
    _check_budget(detector.set_budget(budget), what)
    return budget
  return detector.description.get('default_budget')


@contextlib.contextmanager
def applied(model: Any, args: argparse.Namespace, what: str) -> Iterator[None]:
  """Gives the threshold or the budget to a model, until the end.

  Args:
    model: a detector of Keras.
    args: with what `add_arguments` adds.
    what: the model, in the words of the command line.

  Raises:
    CommandError: the model does not take what is given.
  """
  from official_ext.modeling.layers import routed
  from official_ext.ops import routing
  with contextlib.ExitStack() as stack:
    if args.gate_threshold:
      _check_threshold(routed.has_gate_threshold(model), what)
      stack.enter_context(routing.shutting_gates(args.gate_threshold))
    if args.budget is not None:
      _check_budget(routed.has_budget_input(model), what)
      stack.enter_context(routing.spending(args.budget))
    yield


def _check_threshold(takes_one: bool, what: str) -> None:
  if not takes_one:
    raise command_line.CommandError(
        f'--gate_threshold: {what} takes no threshold. Networks with gates of DyFPN, CADDet or a '
        'dynamic head take one, and their exports and conversions; convert older ones again. '
        'Conversions of networks with budget_input take --budget in its place.')


def _check_budget(takes_one: bool, what: str) -> None:
  if not takes_one:
    raise command_line.CommandError(
        f'--budget: {what} takes no budget. Networks that were trained with budget_input take one, '
        'and their exports and conversions; convert older ones again.')
