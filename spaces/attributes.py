"""Sizes that layers keep beside their parameters, made to follow them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

_GATES = {"LSTM": 4, "GRU": 3}


def fix_attributes(module: nn.Module, groups: int | None = None) -> None:
    """Make a layer's sizes say what its parameters are (they are printed, re-exported and read by users).

    ``groups``: how many groups of a grouped convolution or a GroupNorm stay.
    """
    if isinstance(module, nn.RNNBase):
        _fix_recurrent(module)
    if isinstance(module, nn.RNNCellBase):
        module.input_size, module.hidden_size = module.weight_ih.shape[1], module.weight_hh.shape[1]
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        return
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        module.groups = groups or module.groups
        module.in_channels, module.out_channels = weight.shape[0], weight.shape[1] * module.groups
    elif isinstance(module, nn.modules.conv._ConvNd):
        module.groups = groups or module.groups
        module.in_channels, module.out_channels = weight.shape[1] * module.groups, weight.shape[0]
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        module.num_features = weight.shape[0]
    elif isinstance(module, nn.GroupNorm):
        module.num_groups = groups or module.num_groups
        module.num_channels = weight.shape[0]
    elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        module.normalized_shape = tuple(weight.shape)
    elif isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        module.num_embeddings, module.embedding_dim = weight.shape


def _fix_recurrent(module: Any) -> None:
    """Its forward reads a list of the parameters and not the attributes: that list must name the new ones."""
    module.input_size = module.weight_ih_l0.shape[1]
    module.hidden_size = module.weight_hh_l0.shape[0] // _GATES.get(module.mode, 1)
    if module.proj_size:
        module.proj_size = module.weight_hr_l0.shape[0]
    module._init_flat_weights()
