"""The config of the losses: terms of each output, features to follow, relative depth."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from refine.training.section import Section

MASK_TERMS = {"iou", "focal", "edge", "dice"}
"""Terms that greys have no minimum of, as relative depth is."""


class Terms(Section):
    """Weights of one output's losses."""

    bce: float = Field(0.0, ge=0, description="binary cross-entropy")
    l1: float = Field(0.0, ge=0, description="mean absolute error")
    l2: float = Field(0.0, ge=0, description="mean squared error")
    sobel: float = Field(0.0, ge=0, description="mean absolute error of the gradients")
    iou: float = Field(0.0, ge=0, description="1 - overlap of an image")
    focal: float = Field(0.0, ge=0, description="alpha 0.25, gamma 2")
    rms: float = Field(0.0, ge=0, description="the root of the mean square over an image")
    edge: float = Field(0.0, ge=0, description="a loss on edges, as edge_map and edge_loss say")
    edge_map: Literal["contour", "gradient", "canny"] = Field("gradient", description="where the truth's edges are")
    edge_loss: Literal["of_gradient", "band"] = Field(
        "of_gradient", description="compare gradients with the map, or masks in a band along it"
    )
    dice: float = Field(0.0, ge=0, description="1 - Dice coefficient")
    ssim: float = Field(0.0, ge=0, description="1 - structural similarity")

    def weighted(self) -> list[str]:
        """The names of the terms that count."""
        return [name for name, value in self if isinstance(value, float) and value]


class FeatureSync(Section):
    """The second phase of IS-Net: features are to become those that a truth encoder has of the mask."""

    encoder: str = Field(description="checkpoint of a gt_encoder, as the first phase leaves it")
    kind: Literal["mse", "kl", "l1", "smooth_l1"] = Field("mse", description="how features are compared")
    weight: float = Field(1.0, gt=0, description="of this loss")


class DepthTerms(Section):
    """The loss of relative depth: what remains once scale and shift are fitted, and its gradients."""

    weight: float = Field(1.0, gt=0, description="of this loss")
    gradients: float = Field(0.5, ge=0, description="weight of the gradients within it")


class Loss(Section):
    """`outputs` maps the start of an output's name ("s8", "final") to its terms; the longest match counts.

    Masks are compared with the truth, unet6's "depth" with the depth maps.
    """

    outputs: dict[str, Terms] = Field(default={})
    relative: float = Field(
        0.0, ge=0, description="a sample weighs relative / (relative + its coarse mask's loss); 0: all weigh the same"
    )
    identity: float = Field(0.0, ge=0, description="mean |change of the logit| where the coarse mask is right")
    features: FeatureSync | None = Field(None, description="isnet: a second phase, guided by a gt_encoder")
    depth: DepthTerms | None = Field(
        None, description="unet6: the second output's loss up to scale and shift; needs composites.depths"
    )

    @model_validator(mode="after")
    def _some_term(self) -> Loss:
        others = self.identity or self.depth or self.features
        if not (others or any(terms.weighted() for terms in self.outputs.values())):
            raise ValueError("outputs: no term has a weight; there is nothing to learn from")
        return self

    def terms_of(self, name: str) -> Terms:
        """The terms of the longest key that `name` starts with; none: the output is not supervised."""
        keys = [key for key in self.outputs if name.startswith(key)]
        return self.outputs[max(keys, key=len)] if keys else Terms()
