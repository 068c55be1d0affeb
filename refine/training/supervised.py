"""Whether a network can be trained as its config says, asked of shapes alone, before any data is read."""

from __future__ import annotations

from difflib import get_close_matches

import torch
from torch import Tensor, nn

from refine.errors import ConfigError
from refine.models.preprocessing import Preprocessing
from refine.training.config import TrainingConfig
from refine.training.guidance import split_features
from refine.training.shown import network_input


def check_outputs(model: nn.Module, config: TrainingConfig, preprocessing: Preprocessing) -> None:
    """Raises ConfigError for a loss of an output that the network does not have, and for a network that does not take
    inputs of `model.size`, or gives masks of another size than the truth's."""
    name, side = config.model.architecture, config.model.size
    try:
        outputs = _outputs(model, config, preprocessing)
    except (RuntimeError, ValueError) as error:
        why = str(error).splitlines()[0]
        raise ConfigError(
            f"model: {name} with these options cannot be trained at {side} px: {why}; change model.options, model.size"
            " or schedule.batch"
        ) from None
    for key in config.loss.outputs:
        if not any(output.startswith(key) for output in outputs):
            like = get_close_matches(key, outputs, n=1)
            meant = f"; is {like[0]} meant?" if like else ";"
            raise ConfigError(f"loss.outputs.{key}: the network has no such output{meant} it has {', '.join(outputs)}")
    for output, logit in outputs.items():
        if logit.shape[-2:] != (side, side):
            given = " x ".join(map(str, logit.shape[-2:]))
            raise ConfigError(
                f"model.options: {name} with these gives {output} of {given} px where the truth has {side} x {side};"
                " it cannot be trained so, leave them out"
            )


def _outputs(model: nn.Module, config: TrainingConfig, preprocessing: Preprocessing) -> dict[str, Tensor]:
    """The logits of a training step by name, without values: nothing is computed."""
    side, batch = config.model.size, config.schedule.batch // config.schedule.accumulate

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(batch, *shape, dtype=dtype, device="meta")

    picture = empty(side, side, 3, dtype=torch.uint8)
    part = {"image": picture, "background": picture, "truth": empty(side, side)}
    image = network_input(model, part, preprocessing)
    coarse, reach = (empty(1, side, side), empty()) if config.model.takes_mask else (None, None)
    held = {name: tensor.to("meta") for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    was_training = model.training
    try:
        with torch.no_grad():
            outputs = torch.func.functional_call(model.train(), held, (image, coarse, reach))
    finally:
        model.train(was_training)
    return split_features(outputs)[0]
