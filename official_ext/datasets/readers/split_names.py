"""Tells the split that a file belongs to, by whole words of its path, and chooses train and val."""
import collections
from collections.abc import Collection, Iterable, Mapping, Sequence
import pathlib
import re
from typing import TypeVar

from official_ext.datasets import findings as findings_lib
from official_ext.datasets.sources import data_folder

Item = TypeVar('Item')

_WORDS = {'train': 'train', 'training': 'train', 'trn': 'train',
          'val': 'val', 'valid': 'val', 'validation': 'val', 'dev': 'val', 'eval': 'val',
          'minival': 'val', 'trainval': 'trainval', 'test': 'test', 'testing': 'test'}
# A word is letters of one case, or a capital and small letters: trainSet2 -> train, Set.
_WORD = re.compile(r'[A-Z]?[^\W\d_A-Z]+|[A-Z]+(?![^\W\d_A-Z])')


def of_name(name: str | None) -> str | None:
  """Returns the split that a name without folders says.

  Args:
    name: such as `instances_val2017`, `my-Test_set` or `Validation`.

  Returns:
    `train`, `val`, `trainval` or `test`, whichever the last of its words says; None if none
    does, as in `medieval_books`.
  """
  words = [_WORDS[word.lower()] for word in _WORD.findall(name or '') if word.lower() in _WORDS]
  return 'trainval' if words[-2:] == ['train', 'val'] else words[-1] if words else None


def of_path(path: str) -> str | None:
  """Returns the split that a path says, by its last part that says one; see `of_name`.

  Args:
    path: relative to the data folder, with `/`.
  """
  *folders, base = path.split('/')
  stem = re.split(r'\.(?=[a-zA-Z])', base)[0]
  names = (of_name(part) for part in (stem, *reversed(folders)))
  return next(filter(None, names), None)


def usual_folders(data: data_folder.DataFolder, base: pathlib.Path, *splits: str | None
                  ) -> list[pathlib.Path | tuple[pathlib.Path, ...]]:
  """Returns the folders where the images of a split usually lie, as `annotations.Folders`.

  Args:
    data: the data set.
    base: the folder of the annotations, or the one above it.
    *splits: names of the split, such as `val` and `test` if one stands for the other.
  """
  said = list(dict.fromkeys(filter(None, splits)))
  usual = [base / place for name in said for place in (f'images/{name}', name)]
  return [*usual, *_named_folders(data, said, {*usual}), base / 'images', base,
          data.root / 'images', data.root]


def _named_folders(data: data_folder.DataFolder, splits: Sequence[str],
                   others: Collection[pathlib.Path]) -> list[tuple[pathlib.Path, ...]]:
  """Returns folders that say a split, other than `others`, and hold images, perhaps below.

  A name may be relative to any of them; of a bare name the file in the fewest folders is meant.
  So those of one depth are of one rank.
  """
  parents = {tuple(name.split('/')[:-1]) for name in data.images}
  folders = sorted({parts[:end] for parts in parents for end in range(1, len(parts) + 1)})
  named = []
  for split in splits:
    by_depth = collections.defaultdict(list)
    for parts in folders:
      path = data.path('/'.join(parts))
      if path not in others and of_path('/'.join(parts)) == split:
        by_depth[len(parts)].append(path)
    named += [tuple(by_depth[depth]) for depth in sorted(by_depth)]
  return named


def with_unread(matched: Sequence[str], candidates: Iterable[str]) -> list[str]:
  """Adds the files that should be those of train or val but do not look so.

  Without them, an empty val.csv beside a train.csv would be passed over in silence.

  Args:
    matched: files that look like annotations.
    candidates: all files of their suffix.

  Returns:
    `matched`, and the candidates that say a split, train or val, that no file of `matched` says
    and that have the folder or the name of one of them; all candidates if nothing matched.
  """
  said = {of_path(name) for name in matched}
  folders = {name.rpartition('/')[0] for name in matched}
  names = {name.rpartition('/')[2] for name in matched}
  return [*matched, *(name for name in candidates if name not in matched and (
      not matched or of_path(name) in {'train', 'val'} - said and
      (name.rpartition('/')[0] in folders or name.rpartition('/')[2] in names)))]


def choose(by_split: Mapping[str | None, Item], what: str, findings: findings_lib.Findings
           ) -> dict[str, Item]:
  """Chooses what is train and what is val.

  `trainval` is train if there is no train; `test` is val if there is no val; what names no split
  is train if there is nothing else.

  Args:
    by_split: what was found for each split that `of_path` returns.
    what: it is, for findings, for example `annotation file`.
    findings: told what is not read and what stands for another split.

  Returns:
    `train`, `val`, or both, in this order.
  """
  left = dict(by_split)
  chosen: dict[str, Item] = {}
  for name, stand_in in (('train', 'trainval'), ('val', 'test')):
    if name in left:
      chosen[name] = left.pop(name)
    elif stand_in in left and (name == 'train' or 'train' in chosen):
      chosen[name] = left.pop(stand_in)
      findings.add('all', 'noted', f'there is no {name} split: the {stand_in} split is used as '
                   f'{name}', _shown(chosen[name]))
  if None in left and 'train' not in chosen:
    chosen['train'] = left.pop(None)
  for other, item in left.items():
    says = f'is for {other}' if other else 'is neither for train nor for val'
    findings.add('all', 'noted', f'{what} {says}: not read', _shown(item))
  return {name: chosen[name] for name in ('train', 'val') if name in chosen}


def _shown(item: object) -> str:
  """Returns an item as text; of several, the first three."""
  if isinstance(item, str) or not isinstance(item, Iterable):
    return str(item)
  items = list(map(str, item))
  return ', '.join(items[:3]) + (f' and {len(items) - 3} more' if len(items) > 3 else '')
