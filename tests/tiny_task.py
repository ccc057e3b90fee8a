"""An experiment of Model Garden that trains one weight, for tests of whole runs.

`--import=tiny_task` registers it as `tiny`.
"""
import dataclasses

from official.core import base_task
from official.core import config_definitions
from official.core import exp_factory
from official.core import task_factory
from official.modeling import hyperparams
import tensorflow as tf, tf_keras

NUM_EXAMPLES = 8


@dataclasses.dataclass
class TinyModelConfig(hyperparams.Config):
  """Options of the model.

  Attributes:
    initial: value of the weight at the start.
  """
  initial: float = 0.0


@dataclasses.dataclass
class TinyTaskConfig(config_definitions.TaskConfig):
  """Options of the task."""
  model: TinyModelConfig = dataclasses.field(default_factory=TinyModelConfig)
  train_data: config_definitions.DataConfig = dataclasses.field(
      default_factory=lambda: config_definitions.DataConfig(is_training=True, global_batch_size=4))
  validation_data: config_definitions.DataConfig = dataclasses.field(
      default_factory=lambda: config_definitions.DataConfig(
          is_training=False, global_batch_size=4, drop_remainder=False))


@task_factory.register_task_cls(TinyTaskConfig)
class TinyTask(base_task.Task):
  """Fits `y = 3` by one weight, and counts the examples that evaluation has seen."""

  def build_model(self):
    """Builds a model that returns its weight for every example."""
    return tf_keras.Sequential([
        tf_keras.Input([1]),
        tf_keras.layers.Dense(1, use_bias=False, kernel_initializer=tf_keras.initializers.Constant(
            self.task_config.model.initial))])

  def build_inputs(self, params, input_context=None):
    """Returns the examples 0, 1, ..., each with the input 1 and the label 3."""
    data = tf.data.Dataset.range(NUM_EXAMPLES)
    batch_size = params.global_batch_size
    if input_context:
      batch_size = input_context.get_per_replica_batch_size(batch_size)
      if params.sharding:
        data = data.shard(input_context.num_input_pipelines, input_context.input_pipeline_id)
    if params.is_training:
      data = data.repeat()
    return data.batch(batch_size, drop_remainder=params.is_training).map(
        lambda number: (tf.ones([tf.size(number), 1]), {'number': number}))

  def build_losses(self, labels, model_outputs, aux_losses=None):
    """Returns the mean squared distance to 3."""
    return tf.reduce_mean(tf.square(model_outputs - 3.0))

  def train_step(self, *args, **kwargs):
    """Trains one step, and prints once for each time that TensorFlow traces it."""
    print('The training step is traced.')
    return super().train_step(*args, **kwargs)

  def validation_step(self, inputs, model, metrics=None):
    """Returns the loss and the numbers of the examples."""
    features, labels = inputs
    return {self.loss: self.build_losses(labels, model(features)), 'seen': labels['number']}

  def aggregate_logs(self, state=None, step_outputs=None):
    """Collects the numbers of the examples."""
    return [*(state or []), *(number for part in step_outputs['seen'] for number in part.numpy())]

  def reduce_aggregated_logs(self, aggregated_logs, global_step=None):
    """Returns how many examples, and how many different ones, were seen."""
    return {'seen': len(aggregated_logs), 'different': len(set(aggregated_logs))}


@exp_factory.register_config_factory('tiny')
def tiny():
  """Returns the experiment."""
  return config_definitions.ExperimentConfig(
      task=TinyTaskConfig(),
      trainer=config_definitions.TrainerConfig(
          train_steps=4, steps_per_loop=2, summary_interval=2, checkpoint_interval=2,
          validation_interval=4, validation_steps=-1, best_checkpoint_export_subdir='best',
          best_checkpoint_eval_metric='seen',
          optimizer_config={
              'optimizer': {'type': 'sgd'},
              'learning_rate': {'type': 'constant', 'constant': {'learning_rate': 0.125}}}))
