"""The three ways to run a layer of nodes: with every path, masked, or only what is selected.

Each mode runs the routers, cells and paths of one layer in `run_layer`:

* `AllPaths`: there are no routers and every path is open, as in pre-training;
* `Mask`: everything is computed for every image and multiplied by the gates: training, and
  inference on XLA and TPU;
* `Skip`: inference that computes only what an image selected.

`Mask` and `Skip` give the same numbers.
"""
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import tensorflow as tf

from official_ext.modeling.backbones.caddet import conv_norm
from official_ext.modeling.backbones.caddet import decisions
from official_ext.modeling.backbones.caddet import node as node_lib
from official_ext.modeling.backbones.caddet import path_budget
from official_ext.modeling.backbones.caddet import router
from official_ext.modeling.backbones.caddet import wiring
from official_ext.ops import conditional
from official_ext.ops import routing

Nodes = Mapping[wiring.NodeSpec, node_lib.SupernetNode]


class LayerState(NamedTuple):
  """How far the images of a batch have come.

  Attributes:
    maps: scale -> `[batch, height, width, channels]`, what reaches the nodes of the next layer;
      zeros for images that no open path brings there.
    present: boolean `[batch, nodes of the next layer]`, the images that open paths bring there;
      None without routers.
    selected: `present` as one selection per node; only `Skip` makes them.
    decided: what each layer so far decided; empty without routers.
  """
  maps: dict[int, tf.Tensor]
  present: tf.Tensor | None = None
  selected: Sequence[conditional.Selection] = ()
  decided: tuple[decisions.LayerDecisions, ...] = ()


class AllPaths:
  """Runs every cell and every path for every image; there are no routers."""

  def __init__(self, training: bool | None):
    """Initializes the mode.

    Args:
      training: whether batch norm uses the statistics of the batch; None counts as False.
    """
    self._training = training

  def enter(self, features: tf.Tensor) -> LayerState:
    """Returns the state of images that stand at the entry node.

    Args:
      features: `[batch, height, width, channels]` of the stem.
    """
    return LayerState({0: features})

  def run_layer(self, nodes: Nodes, state: LayerState) -> LayerState:
    """Runs the nodes of one layer.

    Args:
      nodes: the nodes of the layer, finest scale first.
      state: what the layer before returned.

    Returns:
      The state behind this layer.
    """
    cells = {spec: node(state.maps[spec.scale], training=self._training)
             for spec, node in nodes.items()}

    def add_path(spec, path, base):
      features = nodes[spec].transitions[path](cells[spec], training=self._training)
      return base + node_lib.match_size(path, features, base)

    return LayerState(_add_transitions(nodes, cells, add_path))


class Mask:
  """Computes everything for every image and multiplies it by the gates.

  Masks carry no gradient; gates do.  In training batch norm counts only the images for which a
  convolution would run in `Skip`.
  """

  def __init__(self, training: bool | None, hard: bool = False,
               counts_all_images: bool = False, budget: path_budget.PathBudget | None = None):
    """Initializes the mode.

    Args:
      training: whether batch norm uses the statistics of the batch; None counts as False.
      hard: whether open paths have weight 1 instead of their gate, as with a budget.
      counts_all_images: whether batch norm counts all images, present or not.
      budget: what makes gates follow a budget; None: nothing does.
    """
    self._training, self._counts_all_images = training, counts_all_images
    self._budget, self._hard = budget, budget is not None or hard

  def enter(self, features: tf.Tensor) -> LayerState:
    """See `AllPaths`."""
    return LayerState({0: features}, decisions.enter(tf.shape(features)[0]))

  def run_layer(self, nodes: Nodes, state: LayerState) -> LayerState:
    """See `AllPaths`."""
    present = tf.unstack(state.present, axis=1)
    logits = [self.route(node, state.maps[spec.scale], images)
              for (spec, node), images in zip(nodes.items(), present)]
    decided = decisions.decide(
        list(nodes), wiring.by_path(list(nodes), logits), state.present, self._hard,
        None if self._training else routing.gate_threshold(),
        _move(self._budget, nodes, state, self._training))
    if self._training and self._hard:
      # The value is that of an open path, the gradient that of its gate (straight-through).
      gates = decided.gates
      decided = decided._replace(weights=decided.weights + (gates - tf.stop_gradient(gates)))
    running = dict(zip(nodes, tf.unstack(decided.running, axis=1)))
    leaving = dict(zip(_paths(nodes), tf.unstack(_columns(decided.leaving), axis=1)))
    weights = _weights(nodes, decided, state)
    left = {spec: self._run_cell(node, state.maps[spec.scale], running[spec])
            for spec, node in nodes.items()}
    kept = {spec: features * weights[spec, 'keep'] for spec, features in left.items()}

    def add_path(spec, path, base):
      features = nodes[spec].transitions[path](
          left[spec], self._counted(leaving[spec, path]), training=self._training)
      return base + node_lib.match_size(path, features * weights[spec, path], base)

    return LayerState(_add_transitions(nodes, kept, add_path), decided.next_present,
                    decided=(*state.decided, decided))

  def route(self, node: node_lib.SupernetNode, features: tf.Tensor, present: tf.Tensor
            ) -> tf.Tensor:
    """Returns the logits of a node's gates, float32 `[batch, paths of the node]`.

    Args:
      node: the node.
      features: `[batch, height, width, channels]`, what reaches the node.
      present: boolean `[batch]`, the images that are present.
    """
    return node.get_router()(
        router.pool_quarters(features), self._counted(present), training=self._training)

  def _run_cell(self, node: node_lib.SupernetNode, features: tf.Tensor, running: tf.Tensor
                ) -> tf.Tensor:
    """Returns what leaves a node: the cell's result where it runs, else what came in."""
    cell = node(features, self._counted(running), training=self._training)
    return tf.where(running[:, None, None, None], cell, features)

  def _counted(self, images: tf.Tensor) -> tf.Tensor | None:
    """Returns the images that batch norm counts: these, or None for all."""
    return None if self._counts_all_images else images


class Skip:
  """Computes only what an image selected; the inference mode.

  Weights are prepared outside of conditionals, so that they are folded once, and all selections
  of a layer are made at once, because many small operations are slow.
  """

  def __init__(self, hard: bool = False, budget: path_budget.PathBudget | None = None):
    """Initializes the mode.

    Args:
      hard: whether open paths have weight 1 instead of their gate, as with a budget.
      budget: what makes gates follow a budget; None: nothing does.
    """
    self._budget, self._hard = budget, budget is not None or hard

  def enter(self, features: tf.Tensor) -> LayerState:
    """See `AllPaths`."""
    present = decisions.enter(tf.shape(features)[0])
    return LayerState({0: features}, present, conditional.select(present))

  def run_layer(self, nodes: Nodes, state: LayerState) -> LayerState:
    """See `AllPaths`."""
    logits = [self.route(node, state.maps[spec.scale], selection)
              for (spec, node), selection in zip(nodes.items(), state.selected)]
    decided = decisions.decide(
        list(nodes), wiring.by_path(list(nodes), logits), state.present, self._hard,
        routing.gate_threshold(), _move(self._budget, nodes, state))
    running, leaving, next_selected = _select(nodes, decided)
    weights = _weights(nodes, decided, state)
    left, kept = {}, {}
    for spec, node in nodes.items():
      left[spec], kept[spec] = self._run_cell(
          node, state.maps[spec.scale], weights[spec, 'keep'], running[spec])

    def add_path(spec, path, base):
      return self._add_path(path, nodes[spec].transitions[path], left[spec], weights[spec, path],
                            leaving[spec, path], base)

    return LayerState(_add_transitions(nodes, kept, add_path), decided.next_present, next_selected,
                    (*state.decided, decided))

  def route(self, node: node_lib.SupernetNode, features: tf.Tensor,
            present: conditional.Selection) -> tf.Tensor:
    """See `Mask`; the logits of images that are not present are 0."""
    path_router = node.get_router()
    weights = path_router.prepare(features.dtype)
    shut = tf.zeros([tf.shape(features)[0], len(node.paths)])
    return conditional.run_selected(
        lambda pooled: path_router.run(weights, pooled), features, present, shut, replace=True,
        before=router.pool_quarters)

  def _run_cell(self, node: node_lib.SupernetNode, features: tf.Tensor, keep_weight: tf.Tensor,
                running: conditional.Selection) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns what leaves a node, and what of it stays at this scale, times its weight."""
    weights = node.prepare(features.dtype)

    def run(inputs):
      features, keep_weight = inputs
      cell = node.run(weights, features)
      return cell, cell * keep_weight

    # Features of images that do not run stay as they are; images that are not present have zeros.
    return conditional.run_selected(
        run, (features, keep_weight), running, (features, features), replace=True)

  def _add_path(self, path: str, conv: conv_norm.PointwiseConvNorm, left: tf.Tensor,
                weight: tf.Tensor, leaving: conditional.Selection, base: tf.Tensor) -> tf.Tensor:
    """Returns `base` plus what leaves a node on a path to another scale, times its weight."""
    weights = conv.prepare(left.dtype)

    def run(inputs):
      left, weight = inputs
      return node_lib.match_size(path, conv.run(weights, left) * weight, base)

    return conditional.run_selected(run, (left, weight), leaving, base)


Mode = AllPaths | Mask | Skip


def _move(budget: path_budget.PathBudget | None, nodes: Nodes, state: LayerState,
          training: bool | None = False) -> Callable[[tf.Tensor], tf.Tensor] | None:
  """Returns what moves the logits of a layer to the budget of the call, if anything does."""
  if budget is None:
    return None
  return lambda logits: budget(logits, list(nodes), state.present, training=training)


def _add_transitions(
    nodes: Nodes, kept: Mapping[wiring.NodeSpec, tf.Tensor],
    add_path: Callable[[wiring.NodeSpec, str, tf.Tensor], tf.Tensor]) -> dict[int, tf.Tensor]:
  """Returns the maps that reach the next layer, by scale.

  Args:
    nodes: the nodes of the layer.
    kept: what each node leaves at its own scale.
    add_path: maps a node, a path and the map of the path's target to this map with what the
      path brings.
  """
  maps = {spec.scale: features for spec, features in kept.items()}
  for spec, node in nodes.items():
    for path in node.transitions:
      target = spec.targets[path]
      if target not in maps:
        maps[target] = node_lib.zeros_below(maps[spec.scale], node.paths[path])
      maps[target] = add_path(spec, path, maps[target])
  return maps


def _select(nodes: Nodes, decided: decisions.LayerDecisions) -> tuple[
    dict[wiring.NodeSpec, conditional.Selection],
    dict[tuple[wiring.NodeSpec, str], conditional.Selection], list[conditional.Selection]]:
  """Returns all selections of a layer, made at once.

  Args:
    nodes: the nodes of the layer.
    decided: what they decided.

  Returns:
    The selections of `running` by node, of `leaving` by node and path, and of `next_present`.
  """
  running, leaving = decided.running, _columns(decided.leaving)
  selections = conditional.select(tf.concat([running, leaving, decided.next_present], 1))
  first_path, first_next = len(nodes), len(nodes) + len(_paths(nodes))
  return (dict(zip(nodes, selections[:first_path])),
          dict(zip(_paths(nodes), selections[first_path:first_next])), selections[first_next:])


def _weights(nodes: Nodes, decided: decisions.LayerDecisions, state: LayerState
             ) -> dict[tuple[wiring.NodeSpec, str], tf.Tensor]:
  """Returns `weights` by node and path, `[batch, 1, 1, 1]` each, in the dtype of the maps."""
  weights = tf.cast(decided.weights, state.maps[0].dtype)
  columns = tf.unstack(_columns(weights)[:, None, None, None], axis=4)
  return dict(zip(_paths(nodes), columns))


def _paths(nodes: Nodes) -> list[tuple[wiring.NodeSpec, str]]:
  """Returns the pairs of node and path that `_columns` has columns of."""
  return [(spec, path) for spec in nodes for path in wiring.PATHS]


def _columns(values: tf.Tensor) -> tf.Tensor:
  """Returns `[batch, nodes, paths]` as `[batch, nodes * paths]`."""
  return tf.reshape(values, [-1, values.shape[1] * values.shape[2]])
