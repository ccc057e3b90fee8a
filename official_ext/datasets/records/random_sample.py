"""A random sample of items whose number is not known in advance."""
import random
from typing import Any


class RandomSample:
  """Keeps a few of the items that it is given, each with the same chance.

  Attributes:
    items: the items that are kept.
  """

  def __init__(self, size: int):
    """Initializes the sample.

    Args:
      size: how many items to keep.
    """
    self.items: list[Any] = []
    self._size = size
    self._num_offered = 0
    self._random = random.Random(0)

  def offer(self, item: Any) -> None:
    """Keeps the item or leaves it out (reservoir sampling: the total need not be known)."""
    self._num_offered += 1
    if len(self.items) < self._size:
      self.items.append(item)
      return
    place = self._random.randrange(self._num_offered)
    if place < self._size:
      self.items[place] = item
