"""Findings: what was fixed, dropped, is doubtful or wrong in a data set, by reason and by file."""
import collections
from typing import Any, get_args, Literal

from official_ext.utils import command_line

Outcome = Literal['fixed', 'noted', 'dropped', 'doubt', 'problem']
_BY_WEIGHT = get_args(Outcome)


class UnusableError(ValueError):
  """An image, an annotation or a file of records that cannot be used.

  Attributes:
    reason: one phrase, the same for all errors of its kind.
    detail: what is wrong with this one; empty if the reason says it all.
  """

  def __init__(self, reason: str, detail: str = ''):
    """Initializes the error with its `reason` and `detail`."""
    super().__init__(f'{reason}: {detail}' if detail else reason)
    self.reason = reason
    self.detail = detail


class Findings:
  """Collects findings and groups them by split, outcome and reason."""

  def __init__(self):
    self._items: dict[tuple[str, Outcome, str], list[dict[str, str]]] = (
        collections.defaultdict(list))

  def add(self, split: str, outcome: Outcome, reason: str, file: str, detail: str = '') -> None:
    """Records one finding.

    Args:
      split: `train`, `val` or `all`.
      outcome: `fixed`, `noted`, `dropped`, `doubt` (may be right: look) or `problem`.
      reason: one sentence, the same for all findings of its kind.
      file: the file that has the flaw.
      detail: the place in the file, for example the annotation id.
    """
    self._items[split, outcome, reason].append({'file': file, 'detail': detail})

  def count(self, outcome: Outcome) -> int:
    """Returns the number of findings that have this outcome."""
    return sum(len(items) for key, items in self._items.items() if key[1] == outcome)

  def to_json(self) -> list[dict[str, Any]]:
    """Returns all findings as plain JSON types, one entry for each split, outcome and reason."""
    return [dict(split=split, outcome=outcome, reason=reason, count=len(items), items=items)
            for (split, outcome, reason), items in self._items.items()]

  def say(self, shown: int = 3) -> None:
    """Prints a line for each reason, the gravest last: the number and the first files.

    Args:
      shown: how many files to name in a line.
    """
    by_weight = sorted(self._items.items(), key=lambda entry: (
        _BY_WEIGHT.index(entry[0][1]), entry[0][0], entry[0][2]))
    for (split, outcome, reason), items in by_weight:
      names = list(dict.fromkeys(
          ' '.join(filter(None, (item['file'], item['detail']))) for item in items))
      more = f' and {len(names) - shown} more' if len(names) > shown else ''
      command_line.say(f'  {split:5} {outcome:7} {len(items):6}  {reason}: '
                       f'{", ".join(names[:shown])}{more}')
