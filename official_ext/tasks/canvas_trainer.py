"""Model Garden's trainer for images of several sizes: a traced step for each of them."""
from collections.abc import Callable
from typing import Any

from official.core import base_trainer
import orbit
import tensorflow as tf

Step = Callable[[Any], Any]


class CanvasTrainer(base_trainer.Trainer):
  """Traces every step once for each size of images, so that all shapes in it are static.

  Model Garden's trainer takes the next batch inside the traced loop, where a size that differs
  from batch to batch is unknown.  This one takes it outside, so that `trainer.train_tf_while_loop`
  and `eval_tf_while_loop` mean nothing.
  """

  def __init__(self, *args: Any, **kwargs: Any):
    """Initializes the trainer with the arguments of Model Garden's."""
    self._steps: dict[Any, Step] = {}
    super().__init__(*args, **kwargs)

  def create_train_loop_fn(self) -> Callable[..., Any]:
    return orbit.utils.create_loop_fn(self.train_step)

  def create_eval_loop_fn(self, has_state: bool) -> Callable[..., Any]:
    del has_state
    return orbit.utils.create_loop_fn(self.eval_step)

  def next_train_inputs(self, iterator: Any) -> Any:
    """Returns the batch that `train_step` hands on in the place of an iterator."""
    return iterator

  def next_eval_inputs(self, iterator: Any) -> tuple[Any, dict[str, Any]]:
    """Returns the batch that `eval_step` hands on in the place of an iterator, and no logs."""
    return iterator, {}

  def train_step(self, iterator: Any) -> None:
    """Runs the step of the size of the next batch."""
    self._run('train', super().train_step, next(iterator))

  def eval_step(self, iterator: Any) -> Any:
    """Runs the step of the size of the next batch, and returns its logs."""
    return self._run('eval', super().eval_step, next(iterator))

  def _run(self, kind: str, step: Step, inputs: Any) -> Any:
    images = self.strategy.experimental_local_results(inputs[0])
    key = (kind, *(tuple(image.shape[1:3]) for image in images))
    if key not in self._steps:
      # The last batches of an evaluation may be smaller: that dimension alone may be retraced.
      self._steps[key] = tf.function(step, reduce_retracing=True)
    return self._steps[key](inputs)
