"""The classes of a data set: the dense numbers that a network uses, and the user's own ids.

A network has an output for every number from 0 (background) to the highest class, so the ids of a
data set are packed where they would waste outputs.  `Categories` is the map in both directions.
It travels as a list of COCO category entries with one more field, `original_id`: in the
annotation files of the records, in `categories.json` of a training, and in the SavedModel.
"""
import collections
from collections.abc import Iterable, Mapping, Sequence
import dataclasses
from typing import Any

from official_ext.datasets import annotations
from official_ext.datasets import findings as findings_lib
from official_ext.datasets import normal_values
from official_ext.utils import command_line

Id = normal_values.Id
Key = tuple[str, Id | None]  # a name, and its id if the name repeats

# Ids are packed if the highest is above this many times the number of classes, plus so many.
_MOST_PER_CLASS, _MOST_MORE = 2, 10
_PACKED = ('category ids are not whole numbers from 1 to at most twice their count + 10: packed '
           'to 1..N in the records, given back by predict')
_NAMELESS = 'category has no name: its id is taken'
_MATCHED = 'category ids differ between the splits: matched by name'


@dataclasses.dataclass(frozen=True)
class Category:
  """A class.

  Attributes:
    id: in the records and in the network, at least 1.
    name: in one line.
    original_id: in the user's own annotation file, as it is written there.
  """
  id: int
  name: str
  original_id: Id


class Categories(Sequence[Category]):
  """The classes of a data set by ascending id in the records."""

  def __init__(self, categories: Iterable[Category],
               numbers: Mapping[str, Mapping[Id, int]] | None = None):
    """Initializes the list.

    Args:
      categories: the classes, in any order.
      numbers: split -> normal id in its file -> id in the records.  None: `original_id` of the
        classes counts for every split.
    """
    self._categories = sorted(categories, key=lambda category: category.id)
    self._numbers = numbers or {}
    self._original: dict[Id, int] = {
        normal_values.known_id(category.original_id): category.id
        for category in self._categories}

  def __len__(self):
    return len(self._categories)

  def __getitem__(self, index):
    return self._categories[index]

  def __repr__(self):
    return f'Categories({self._categories})'

  @property
  def names(self) -> dict[int, str]:
    """Class id in the records -> name, by ascending id."""
    return {category.id: category.name for category in self}

  @property
  def original_ids(self) -> dict[int, Id]:
    """Class id in the records -> id in the user's own annotation file, by ascending id."""
    return {category.id: category.original_id for category in self}

  @property
  def num_classes(self) -> int:
    """The highest class id + 1, as Model Garden counts classes (background included)."""
    return max(category.id for category in self) + 1

  def record_id(self, original_id: Any, split: str = '') -> int | None:
    """Returns the id in the records of a class of the data set.

    Args:
      original_id: a `category_id` of an annotation.
      split: the split of the annotation, for data sets whose splits have ids of their own.

    Returns:
      The id in the records; None if no category has this id.
    """
    number = normal_values.normal_id(original_id)
    return None if number is None else self._numbers.get(split, self._original).get(number)

  def to_coco(self) -> list[annotations.Entry]:
    """Returns COCO category entries with `original_id`, by ascending id."""
    return [dataclasses.asdict(category) for category in self]


UNKNOWN = Categories([])  # of a detector that does not say its classes


def from_coco(entries: Iterable[Mapping[str, Any]]) -> Categories:
  """Returns the classes of COCO category entries, such as those of `to_coco`.

  Args:
    entries: with `id`, the class number in the network, `name`, and `original_id` if it differs.

  Raises:
    ValueError: an entry has no whole number as its id, or no name, or an id is there twice.
  """
  found: dict[int, Category] = {}
  for entry in entries:
    number, name = normal_values.normal_id(entry.get('id')), entry.get('name')
    if not isinstance(number, int) or not normal_values.normal_name(name):
      raise ValueError(f'category {entry!r} has no whole number as its id, or no name')
    original = normal_values.original_id(entry.get('original_id'))
    category = Category(number, normal_values.normal_name(name),
                        number if original is None else original)
    if found.setdefault(number, category) != category:
      raise ValueError(f'category id {number} stands for two classes')
  return Categories(found.values())


def keys(entries: Iterable[Mapping[str, Any]], repeated: Iterable[str] = ()) -> dict[Id, Key]:
  """Tells which class each id of a list of categories stands for.

  A class is its name, because ids differ between the files of a data set; where a name repeats,
  it is the name and the id.

  Args:
    entries: COCO category entries; `original_id` counts, if there is one, and then `id`.
    repeated: names that repeat elsewhere.

  Returns:
    Normal `id` -> class.

  Raises:
    ValueError: an entry has no id, or an id stands for two names.
  """
  names: dict[Id, str] = {}
  original: dict[Id, Id] = {}
  for entry in entries:
    number = normal_values.normal_id(entry.get('id'))
    if number is None:
      raise ValueError(f'category {entry.get("name")!r} has no id that can be used: '
                       f'{entry.get("id")!r}')
    name = normal_values.normal_name(entry.get('name')) or str(number)
    if names.setdefault(number, name) != name:
      raise ValueError(f'category id {number} is both {names[number]!r} and {name!r}')
    given = normal_values.normal_id(entry.get('original_id'))
    original[number] = number if given is None else given
  counts = collections.Counter(names.values())
  several = {name for name, count in counts.items() if count > 1}.union(repeated)
  return {number: (name, original[number] if name in several else None)
          for number, name in names.items()}


def _is_kept(ids: Sequence[Id]) -> bool:
  """Returns whether ids are used in the records as they are.

  Published checkpoints and experiments of Model Garden count COCO's 80 classes to 90, as its
  files do; so a few unused numbers stay.
  """
  numbers = [number for number in ids if isinstance(number, int)]
  return (len(numbers) == len(ids) and min(numbers) >= 1
          and max(numbers) <= _MOST_PER_CLASS * len(numbers) + _MOST_MORE)


def merge(splits: Mapping[str, annotations.Split], findings: findings_lib.Findings) -> Categories:
  """Makes one list of the classes of all splits.

  Args:
    splits: the splits by name, train first.
    findings: told if ids are packed, or differ between the splits.

  Returns:
    The classes of all splits.  `original_id` is that of the first split that has the class.

  Raises:
    CommandError: a category has no id, an id stands for two classes, or there is no category.
  """
  found = _keys_by_split(splits)
  originals: dict[Key, Id] = {}  # the id in the first split that has the class
  written: dict[Key, Id] = {}  # the same as it is written there
  for name, split in splits.items():
    earlier = {number: key for key, number in originals.items()}
    for entry in split.categories:
      number = normal_values.known_id(entry.get('id'))
      key = found[name][number]
      if key not in originals:
        if number in earlier:
          raise command_line.CommandError(
              f'{split.source}: category id {number} is both {earlier[number][0]!r} and '
              f'{key[0]!r}; use the same categories in all splits.')
        originals[key], written[key] = number, normal_values.original_id(entry['id'])
      elif originals[key] != number:
        findings.add(name, 'noted', _MATCHED, split.source,
                     f'{key[0]}: {number}, before {originals[key]}')
      if not normal_values.normal_name(entry.get('name')):
        findings.add(name, 'fixed', _NAMELESS, split.source, str(number))
  if not originals:
    source = next(iter(splits.values())).source
    raise command_line.CommandError(f'{source} has no categories.')
  numbers = _number(originals)
  if any(numbers[key] != original for key, original in originals.items()):
    for name, split in splits.items():
      findings.add(name, 'fixed', _PACKED, split.source)
  # An id that a split does not list is that of the others.
  of_all = {original: numbers[key] for key, original in originals.items()}
  return Categories(
      [Category(number, key[0], written[key]) for key, number in numbers.items()],
      {name: {**of_all, **{number: numbers[key] for number, key in of_split.items()}}
       for name, of_split in found.items()})


def _keys_by_split(splits: Mapping[str, annotations.Split]) -> dict[str, dict[Id, Key]]:
  """Returns, for every split, normal id -> class; raises CommandError if that is not told."""
  found: dict[str, dict[Id, Key]] = {}
  repeated: set[str] = set()
  # The second pass knows the names that repeat in any split.
  for name, split in [*splits.items(), *splits.items()]:
    try:
      found[name] = keys(split.categories, repeated)
    except ValueError as error:
      raise command_line.CommandError(
          f'{split.source}: {error}; each class needs an id of its own.') from error
    repeated |= {key[0] for key in found[name].values() if key[1] is not None}
  return found


def _number(originals: Mapping[Key, Id]) -> dict[Key, int]:
  """Returns the id in the records of every class, from its normal id in the data set."""
  if _is_kept(list(originals.values())):
    return {key: number for key, number in originals.items() if isinstance(number, int)}

  def order(key: Key) -> tuple[bool, int]:
    number = originals[key]
    return (False, number) if isinstance(number, int) else (True, 0)

  # By ascending number; then those with text as their id, in the order of the file.
  return {key: number for number, key in enumerate(sorted(originals, key=order), 1)}
