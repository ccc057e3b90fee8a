"""Options of parts of networks and tasks: gates, fixed points and budgets."""
import dataclasses
from typing import List, Optional

from official.modeling import hyperparams

# Sizes in pixels of the network's input at which one scale of objects ends and the next begins.
SCALE_BOUNDS = (64.0, 150.0, 360.0)


@dataclasses.dataclass
class GateConfig(hyperparams.Config):
  """Options of a gate that chooses a path per image and level.

  Attributes:
    type: `channel` (CNN gate), `recurrent` (GRU gate) or `random` (no gate).
    direction: of the recurrent gate, `upward` (fine to coarse) or `downward`.
    temperature: of the Gumbel softmax.
    initial_bias: start of the last bias, one value per path; null: the paper's, which is
      [0.1, 2.0] for the channel gate of block B and uniform otherwise.
    evaluation: at inference `argmax`, `sampled` or `random`; a random signal wants `sampled`,
      its argmax is always the same path.
    random_probability: of the last path of the random signal; null: all alike.
    seed: changes the noise.
  """
  type: str = 'channel'
  direction: str = 'upward'
  temperature: float = 1.0
  initial_bias: Optional[List[float]] = None
  evaluation: str = 'argmax'
  random_probability: Optional[float] = None
  seed: int = 0


@dataclasses.dataclass
class SolverConfig(hyperparams.Config):
  """Options of a solver of x = f(x) and of the gradient through the solution.

  Attributes:
    solver: `anderson`, `broyden`, or `unroll` (apply f so many times).
    training_evaluations: of f in the forward pass of training; `gradient` adds its own.
      Broyden's T steps are T + 1 evaluations.
    inference_evaluations: the same at inference; of `unroll` the same as in training.
    backward_evaluations: vector-Jacobian products of the implicit gradient.
    tolerance: an image stops at this relative residual; 0: every image runs all evaluations.
    memory: iterates that `anderson` combines; `broyden` keeps all its steps.
    gradient: `implicit`, `phantom`, `jacobian_free` or `unroll` (through the solver).
    phantom_steps: differentiated applications of f behind the solution.
    phantom_damping: share of f in each of them, in (0, 1].
    warmup_unroll_steps: training steps at the start that apply f `warmup_evaluations` times
      and differentiate that.  Inference always solves.
    warmup_evaluations: see there.
  """
  solver: str = 'anderson'
  training_evaluations: int = 5
  inference_evaluations: int = 5
  backward_evaluations: int = 3
  tolerance: float = 0.0
  memory: int = 5
  gradient: str = 'implicit'
  phantom_steps: int = 3
  phantom_damping: float = 1.0
  warmup_unroll_steps: int = 0
  warmup_evaluations: int = 3


@dataclasses.dataclass
class PathSimilarityConfig(hyperparams.Config):
  """Options of the loss by which images with objects of like scales take like paths (CADDet).

  Attributes:
    weight: factor of the loss in the total (lambda_2); 0 for no such loss.
    minimum: wanted similarity of the paths of images that have no scale alike.
    maximum: wanted similarity where all scales are alike.
  """
  weight: float = 0.0
  minimum: float = 0.6
  maximum: float = 0.95


@dataclasses.dataclass
class BudgetConfig(hyperparams.Config):
  """Options of the loss that pulls the cost of a routed network to a target.

  `share` is for every routed network: its target is a share of what gates can save.  The other
  kinds are for the backbone `caddet`: their target is a share of the cost of that backbone with
  every path open.

  Attributes:
    weight: factor of the loss in the total (lambda); 0 for no budget.
    kind: `share`, the same target for all images; `fixed`, the same for all images;
      `scale_aware`, by how many scales the objects of the image have; `loss_aware`, by the
      detection loss of the image.
    target: for `share`, the wanted share of what gates can save (alpha), from 0, all shut, to 1,
      all open.
    reduction: for `share`, `mean` over the images, or `sum` over the images of a replica.
    distance: for `share`, the `squared` or `absolute` distance of the share from the target.
    ratio: for the other kinds, the wanted share of the cost of the backbone (C_0): for
      `scale_aware` per scale, for `loss_aware` for the image with the least loss.
    scale_bounds: sizes in pixels of the network's input at which one scale of objects ends and
      the next begins.
    path_similarity: a further loss, beside a budget of any kind or none.
    start_step: the first training step with these losses.
  """
  weight: float = 0.0
  kind: str = 'share'
  target: float = 0.5
  reduction: str = 'mean'
  distance: str = 'squared'
  ratio: float = 0.05
  scale_bounds: List[float] = dataclasses.field(default_factory=lambda: list(SCALE_BOUNDS))
  path_similarity: PathSimilarityConfig = dataclasses.field(
      default_factory=PathSimilarityConfig)
  start_step: int = 0
