"""What the class numbers of a detector are written as, and called.

A network numbers its classes from 1.  People want their own category ids back: those of the data
that the detector was trained on, or those of the annotation file that they give.
"""
from collections.abc import Iterable, Mapping
import dataclasses
from typing import Any

from official_ext.datasets import categories as categories_lib
from official_ext.datasets import normal_values
from official_ext.datasets import truth as truth_lib
from official_ext.utils import command_line

Id = normal_values.Id

_NAMED = 20


@dataclasses.dataclass(frozen=True)
class Labels:
  """The category ids and the names of a detector's classes.

  Attributes:
    ids: class number of the network -> category id that is written.
    names: category id that is written -> name.
  """
  ids: Mapping[int, Id]
  names: Mapping[Id, str]

  def category_id(self, number: int) -> Id:
    """Returns what a class number is written as: itself, if nothing is known about it."""
    return self.ids.get(number, number)

  def name(self, category_id: Id) -> str:
    """Returns what a category that was written is called."""
    return self.names.get(category_id, f'class {category_id}')

  def to_json(self) -> list[dict[str, Id]]:
    """Returns COCO category entries for the ids that are written."""
    return [{'id': category_id, 'name': name} for category_id, name in self.names.items()]


def of_detector(detector: Any, truth: truth_lib.Truth | None) -> Labels:
  """Returns the labels of one of `detectors`, with the ids of an annotation file if there is one.

  Args:
    detector: has `categories` and `description`.
    truth: the annotation file.

  Raises:
    CommandError: the annotation file has other classes.
  """
  num_classes = detector.description.get('num_classes')
  if truth is None:
    return of_model(detector.categories, num_classes)
  return of_file(detector.categories, truth, num_classes)


def of_model(model: categories_lib.Categories, num_classes: int | None = None) -> Labels:
  """Returns labels with the category ids of the data that a detector was trained on.

  Args:
    model: the classes of the detector; empty if it does not say them.
    num_classes: number of the detector's classes, background included, if it says that.
  """
  return _complete(model, num_classes, {category.id: category.original_id for category in model},
                   {})


def of_file(model: categories_lib.Categories, truth: truth_lib.Truth,
            num_classes: int | None = None) -> Labels:
  """Returns labels with the category ids of an annotation file, whose classes must be the model's.

  Classes are the same if they have the same name; if a name repeats, also the same id.

  Args:
    model: the classes of the detector; empty if it does not say them.
    truth: the annotation file; it may lack classes of the detector.
    num_classes: number of the detector's classes, background included, if it says that.

  Raises:
    CommandError: an annotation is of a class that the detector has not, or it has no class of
      the file.
  """
  if not truth.categories:
    return of_model(model, num_classes)
  if not model:
    return _same_numbers(truth, num_classes)
  numbers = _matches(model, truth)
  used = {normal_values.normal_id(number) for number in truth.used}
  foreign = [category for category in truth.categories
             if normal_values.normal_id(category.original_id) not in numbers]
  if not numbers or any(normal_values.normal_id(item.original_id) in used for item in foreign):
    absent = [category for category in model if category.id not in numbers.values()]
    raise command_line.CommandError(
        f'--annotation_file={truth.path} has other classes than the model. Only in the file: '
        f'{_listed(foreign)}. Only in the model: {_listed(absent) or "none"}. Give a file with the '
        'names of the model, or a model that was trained on these classes.')
  ids = {number: original for category in truth.categories
         for original in [category.original_id]
         for number in [numbers.get(normal_values.normal_id(original))] if number is not None}
  return _complete(model, num_classes, ids, truth.names)


def _matches(model: categories_lib.Categories, truth: truth_lib.Truth) -> dict[Id | None, int]:
  """Returns normal id in the annotation file -> class number, for classes that both have."""
  entries = model.to_coco()
  repeated: set[str] = set()
  for _ in range(2):  # The second time, both know the names that repeat in either.
    of_file = categories_lib.keys(truth.entries, repeated)
    of_network = categories_lib.keys(entries, repeated)
    repeated = {name for name, number in [*of_file.values(), *of_network.values()]
                if number is not None}
  by_key = {key: number for number, key in of_network.items() if isinstance(number, int)}
  return {number: by_key[key] for number, key in of_file.items() if key in by_key}


def _complete(model: categories_lib.Categories, num_classes: int | None,
              ids: Mapping[int, Id], names: Mapping[Id, str]) -> Labels:
  """Returns labels for all classes of a model, also for those that an annotation file lacks.

  They keep their own category id if no other class has it, and get a new one otherwise.

  Args:
    model: the classes of the model.
    num_classes: number of its classes, background included; None: as many as `model` has.
    ids: class number -> category id, for the classes whose category id is known.
    names: category id -> name, for these classes.
  """
  ids, names = dict(ids), dict(names)
  original_ids, own_names = model.original_ids, model.names
  taken = {normal_values.normal_id(value) for value in [*ids.values(), *names]}
  highest = max([0, *(value for value in taken if isinstance(value, int))])
  # A network may have outputs for numbers that no class has.
  for number in sorted({*range(1, num_classes or 1), *original_ids}):
    if number not in ids:
      ids[number] = original_ids.get(number, number)
      if normal_values.normal_id(ids[number]) in taken:
        highest += 1
        ids[number] = highest
      taken.add(normal_values.normal_id(ids[number]))
    if number in own_names:
      names.setdefault(ids[number], own_names[number])
  return Labels(ids, names)


def _same_numbers(truth: truth_lib.Truth, num_classes: int | None) -> Labels:
  """Returns labels of a detector that does not say its classes: its numbers are the file's."""
  ids = {number: category.original_id for category in truth.categories
         for number in [normal_values.normal_id(category.original_id)] if isinstance(number, int)}
  highest = num_classes - 1 if num_classes else None
  strange = [value for value in truth.used
             if not _is_class(normal_values.normal_id(value), highest)]
  if strange:
    raise command_line.CommandError(
        'The model does not say the names of its classes, whose numbers are '
        f'{f"1 to {highest}" if highest else "1 and more"}, and --annotation_file={truth.path} has '
        f'category ids such as {strange[0]!r}: give the annotation file that convert_dataset '
        'wrote, or export the model again, from its --model_dir.')
  return Labels(ids, truth.names)


def _is_class(number: Id | None, highest: int | None) -> bool:
  """Returns whether an id can be a class number of a network."""
  return isinstance(number, int) and 1 <= number <= (highest or number)


def _listed(categories: Iterable[categories_lib.Category]) -> str:
  names = [f'{category.name} (id {category.original_id})' for category in categories]
  more = f' and {len(names) - _NAMED} more' if len(names) > _NAMED else ''
  return ', '.join(names[:_NAMED]) + more
