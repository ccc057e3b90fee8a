"""Options of parts of networks and tasks: gates, fixed points and budgets."""
import dataclasses
from typing import List, Optional

from official.modeling import hyperparams


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
    weight: of the loss in the total (lambda_2); 0: no such loss.
    minimum: wanted similarity of the paths of two images that have no scale alike.
    maximum: wanted similarity where all scales are alike.
  """
  weight: float = 0.0
  minimum: float = 0.6
  maximum: float = 0.95


@dataclasses.dataclass
class BudgetConfig(hyperparams.Config):
  """Options of the loss that pulls the cost of a routed network to a target.

  Attributes:
    weight: of the loss in the total (lambda); 0: no budget.
    kind: what the target is a share of, and for whom.  `share`: of what gates can save, alike
      for all images.  The others of the cost of the whole backbone, which must be `caddet`:
      `fixed`, alike for all images; `scale_aware`, by how many scales its objects have;
      `loss_aware`, by the loss of its detections.
    target: of `share`, wanted part of what gates can save (alpha), from 0, all shut, to 1, all
      open.
    reduction: of `share`, `mean` over the images, or `sum` over those of a replica.
    distance: of `share`, of the part from the target, `squared` or `absolute`.
    ratio: of the other kinds, wanted part of the backbone's cost (C_0); of `scale_aware` for
      each scale, of `loss_aware` for the image with the least loss.
    scale_bounds: sizes in pixels of the network's input at which one scale of objects ends and
      the next begins.
    path_similarity: a loss of its own, beside a budget of any kind or none.
    start_step: the first training step with these losses.
  """
  weight: float = 0.0
  kind: str = 'share'
  target: float = 0.5
  reduction: str = 'mean'
  distance: str = 'squared'
  ratio: float = 0.05
  scale_bounds: List[float] = dataclasses.field(
      default_factory=lambda: [64.0, 150.0, 360.0])
  path_similarity: PathSimilarityConfig = dataclasses.field(
      default_factory=PathSimilarityConfig)
  start_step: int = 0
