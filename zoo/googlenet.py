"""GoogLeNet (Inception v1) with BatchNorm, as in torchvision, and its improved form.

Papers:
* `Going Deeper with Convolutions` - https://arxiv.org/abs/1409.4842
* `Deep Networks for Image Classification` (Skoularikis, 2021): the vanilla network is torchvision's `googlenet`; the
  improved one (section 4) has three 3x3 convolutions in the place of the 7x7 one, and "no specific modification to
  original Inception module".

Parameter names are torchvision's, so its checkpoints load as they are.
"""

from functools import partial
from typing import Any, NamedTuple, cast

import torch

# timm re-exports its layers in a way that mypy takes for private imports.
from timm.layers import ConvNormAct, create_classifier, get_device_dtype  # type: ignore[attr-defined]
from timm.models import register_model
from timm.models._features import feature_take_indices
from timm.models._manipulate import flatten_modules
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.catalog import PAPER
from zoo.pretrained import build_model, dataset_cfgs
from zoo.torchscript import ignore, is_scripting

__all__ = ["AUX_LOSS_WEIGHT", "GoogLeNet", "GoogLeNetOutputs"]

AUX_LOSS_WEIGHT = 0.3
"""Weight of each auxiliary head's loss in training; the classifier's is 1 (section 2, GoogLeNet)."""

# The epsilon of torchvision and of the original in TensorFlow; PyTorch's default is 1e-5.
ConvBlock = partial(ConvNormAct, norm_kwargs={"eps": 1e-3})


class GoogLeNetOutputs(NamedTuple):
    """The output of a GoogLeNet with auxiliary heads in training: logits [batch, classes], in torchvision's order."""

    logits: Tensor
    aux_logits2: Tensor
    aux_logits1: Tensor


class Inception(nn.Module):
    """Four parallel branches, concatenated along the channels: 1x1, 3x3, 3x3, and a 3x3 max pool.

    The third branch is 5x5 in the original paper. It is 3x3 in torchvision (pytorch/vision#906), and so in the network
    that the paper measured.
    """

    def __init__(
        self,
        in_chs: int,
        out_1x1: int,
        reduce_3x3: int,
        out_3x3: int,
        reduce_5x5: int,
        out_5x5: int,
        pool_proj: int,
        **dd: Any,
    ) -> None:
        super().__init__()
        self.branch1 = ConvBlock(in_chs, out_1x1, kernel_size=1, **dd)
        self.branch2 = nn.Sequential(
            ConvBlock(in_chs, reduce_3x3, kernel_size=1, **dd),
            ConvBlock(reduce_3x3, out_3x3, kernel_size=3, **dd),
        )
        self.branch3 = nn.Sequential(
            ConvBlock(in_chs, reduce_5x5, kernel_size=1, **dd),
            ConvBlock(reduce_5x5, out_5x5, kernel_size=3, **dd),
        )
        self.branch4 = nn.Sequential(
            nn.MaxPool2d(kernel_size=3, stride=1, padding=1, ceil_mode=True),
            ConvBlock(in_chs, pool_proj, kernel_size=1, **dd),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Apply the branches to a map: [batch, channels, height, width], the size stays."""
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], dim=1)


class InceptionAux(nn.Module):
    """Auxiliary classifier on an inner map of any size: [batch, channels, height, width] -> [batch, classes]."""

    def __init__(self, in_chs: int, num_classes: int, drop_rate: float, **dd: Any) -> None:
        super().__init__()
        self.conv = ConvBlock(in_chs, 128, kernel_size=1, **dd)
        self.fc1 = nn.Linear(128 * 4 * 4, 1024, **dd)
        self.fc2 = nn.Linear(1024, num_classes, **dd) if num_classes > 0 else nn.Identity()
        self.dropout = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the head's logits, [batch, classes]."""
        x = F.adaptive_avg_pool2d(x, (4, 4))  # N x in_chs x 4 x 4
        x = self.conv(x)  # N x 128 x 4 x 4
        x = F.relu(self.fc1(torch.flatten(x, 1)))  # N x 1024
        x = self.fc2(self.dropout(x))  # N x classes
        return x  # noqa: RET504  for mypy: the call of a module has no type


def _create_stem(stem: str, in_chans: int, **dd: Any) -> nn.Module:
    """Build the first layers: [batch, in_chans, height, width] -> [batch, 64, height/2, width/2]."""
    if stem == "conv7x7":
        return ConvBlock(in_chans, 64, kernel_size=7, stride=2, **dd)
    if stem == "deep":
        # The paper gives no widths. 32, 32, 64 are those of the deep ResNet stem (ResNet-C), as in its improved ResNet.
        # With a stride of 2 and 64 output channels, all later layers keep their sizes.
        return nn.Sequential(
            ConvBlock(in_chans, 32, kernel_size=3, stride=2, **dd),
            ConvBlock(32, 32, kernel_size=3, **dd),
            ConvBlock(32, 64, kernel_size=3, **dd),
        )
    raise ValueError(f"Unknown stem {stem!r}. Valid: 'conv7x7', 'deep'.")


class GoogLeNet(nn.Module):
    """GoogLeNet for inputs of at least 15x15 pixels. Comments give the shapes for 64x64.

    In evaluation it returns the logits, [batch, num_classes]. In training, a model built with `aux_logits=True` returns
    `GoogLeNetOutputs`; the auxiliary heads' losses are to be added with `AUX_LOSS_WEIGHT`. TorchScript allows only one
    output type: a scripted model with auxiliary heads evaluates, and refuses to train.

    Args:
        num_classes: classes of the classifier; 0 for none.
        in_chans: channels of the input.
        global_pool: timm's type of the pool before the classifier.
        stem: "conv7x7", or "deep" for three 3x3 convolutions.
        drop_rate: dropout before the classifier.
        aux_logits: build the auxiliary heads.
        aux_drop_rate: dropout in the auxiliary heads.
        device: of the parameters.
        dtype: of the parameters.
    """

    __constants__ = ("aux_logits",)  # lets TorchScript drop the branch of the heads where there are none

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        stem: str = "conv7x7",
        drop_rate: float = 0.2,
        aux_logits: bool = False,
        aux_drop_rate: float = 0.7,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.drop_rate = drop_rate
        self.aux_logits = aux_logits

        self.conv1 = _create_stem(stem, in_chans, **dd)
        self.maxpool1 = nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True)
        self.conv2 = ConvBlock(64, 64, kernel_size=1, **dd)
        self.conv3 = ConvBlock(64, 192, kernel_size=3, **dd)
        self.maxpool2 = nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True)
        self.inception3a = Inception(192, 64, 96, 128, 16, 32, 32, **dd)
        self.inception3b = Inception(256, 128, 128, 192, 32, 96, 64, **dd)
        self.maxpool3 = nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True)
        self.inception4a = Inception(480, 192, 96, 208, 16, 48, 64, **dd)
        self.inception4b = Inception(512, 160, 112, 224, 24, 64, 64, **dd)
        self.inception4c = Inception(512, 128, 128, 256, 24, 64, 64, **dd)
        self.inception4d = Inception(512, 112, 144, 288, 32, 64, 64, **dd)
        self.inception4e = Inception(528, 256, 160, 320, 32, 128, 128, **dd)
        self.maxpool4 = nn.MaxPool2d(kernel_size=2, stride=2, ceil_mode=True)
        self.inception5a = Inception(832, 256, 160, 320, 32, 128, 128, **dd)
        self.inception5b = Inception(832, 384, 192, 384, 48, 128, 128, **dd)
        self.aux1 = InceptionAux(512, num_classes, aux_drop_rate, **dd) if aux_logits else None
        self.aux2 = InceptionAux(528, num_classes, aux_drop_rate, **dd) if aux_logits else None

        feature_info: list[dict[str, Any]] = [
            {"num_chs": 64, "reduction": 2, "module": "conv1"},
            {"num_chs": 192, "reduction": 4, "module": "conv3"},
            {"num_chs": 480, "reduction": 8, "module": "inception3b"},
            {"num_chs": 832, "reduction": 16, "module": "inception4e"},
            {"num_chs": 1024, "reduction": 32, "module": "inception5b"},
        ]
        self.feature_info = feature_info
        self.layer_names = [name for name, _ in self.named_children() if not name.startswith("aux")]
        self.feature_ends = [self.layer_names.index(info["module"]) for info in feature_info]

        self.num_features = 1024
        self.global_pool, self.head_drop, self.fc = create_classifier(
            self.num_features, num_classes, pool_type=global_pool, drop_rate=drop_rate, **dd
        )
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()
        self._init_weights()

    def _init_weights(self) -> None:
        """Initialise as torchvision does, in both forms: section 4 changes nothing in GoogLeNet but the stem."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(module.weight, mean=0.0, std=0.01, a=-2, b=2)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)

    @ignore
    def group_matcher(self, coarse: bool = False) -> Any:  # noqa: ARG002  timm's signature
        """Number the layers from stem to head, for timm's layer-wise learning rates."""
        layer_ids = {name: i for i, (name, _) in enumerate(flatten_modules(self.named_children()))}
        for head in ("fc", "aux1", "aux2"):
            layer_ids.pop(head, None)

        def matcher(name: str) -> float:
            return next((i for layer, i in layer_ids.items() if name.startswith(f"{layer}.")), float("inf"))

        return matcher

    @ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Refuse gradient checkpointing, which this model does not support."""
        assert not enable, "gradient checkpointing not supported"

    @ignore
    def get_classifier(self) -> nn.Module:
        """Return the classifier."""
        return cast(nn.Module, self.fc)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier and those of the auxiliary heads.

        Args:
            num_classes: classes of the new ones; 0 for none.
            global_pool: timm's type of the pool before the classifier; None keeps it.
        """
        dd = get_device_dtype(self)  # type: ignore[no-untyped-call]
        self.num_classes = num_classes
        pool_type = self.global_pool.pool_type if global_pool is None else global_pool
        self.global_pool, self.fc = create_classifier(self.num_features, num_classes, pool_type=pool_type, **dd)
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()
        self.global_pool.train(self.training)
        self.fc.train(self.training)
        for aux in (self.aux1, self.aux2):
            if aux is not None:
                aux.fc2 = nn.Linear(1024, num_classes, **dd) if num_classes > 0 else nn.Identity()
                aux.fc2.train(self.training)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,  # noqa: ARG002  timm's signature
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Compute maps at reductions 2, 4, 8, 16 and 32, without the auxiliary heads.

        Args:
            x: images [batch, in_chans, height, width].
            indices: which of the five maps to return; an integer n for the last n, None for all.
            norm: no effect; it is for models that end in a norm layer.
            stop_early: stop after the last of these maps.
            output_fmt: "NCHW".
            intermediates_only: return the maps alone.

        Returns:
            The final map and the list of maps, or the list alone.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"Unknown output_fmt {output_fmt!r}. Valid: 'NCHW'.")
        take_indices, max_index = feature_take_indices(len(self.feature_ends), indices)
        take_ends = [self.feature_ends[i] for i in take_indices]
        layer_names = self.layer_names[: self.feature_ends[max_index] + 1] if stop_early else self.layer_names
        intermediates = []
        for i, name in enumerate(layer_names):
            x = getattr(self, name)(x)
            if i in take_ends:
                intermediates.append(x)
        return intermediates if intermediates_only else (x, intermediates)

    def prune_intermediate_layers(
        self,
        indices: int | list[int] = 1,
        prune_norm: bool = False,  # noqa: ARG002  timm's signature
        prune_head: bool = True,
    ) -> list[int]:
        """Remove the layers that some of the intermediate maps do not need.

        Args:
            indices: which maps to keep, as in `forward_intermediates`.
            prune_norm: no effect; it is for models that end in a norm layer.
            prune_head: remove the heads too, as is done anyway where a layer before them is removed.

        Returns:
            The indices of the maps that are kept.
        """
        take_indices, max_index = feature_take_indices(len(self.feature_ends), indices)
        pruned = self.layer_names[self.feature_ends[max_index] + 1 :]
        for name in pruned:
            setattr(self, name, nn.Identity())
        if pruned:
            self.num_features = self.feature_info[max_index]["num_chs"]
        if prune_head or pruned:
            self.aux_logits = False
            self.aux1 = self.aux2 = None
            self.reset_classifier(0, "")
        return take_indices

    def _forward_to_4a(self, x: Tensor) -> Tensor:
        x = self.conv1(x)  # N x 64 x 32 x 32
        x = self.maxpool1(x)  # N x 64 x 16 x 16
        x = self.conv2(x)  # N x 64 x 16 x 16
        x = self.conv3(x)  # N x 192 x 16 x 16
        x = self.maxpool2(x)  # N x 192 x 8 x 8
        x = self.inception3a(x)  # N x 256 x 8 x 8
        x = self.inception3b(x)  # N x 480 x 8 x 8
        x = self.maxpool3(x)  # N x 480 x 4 x 4
        x = self.inception4a(x)  # N x 512 x 4 x 4
        return x  # noqa: RET504

    def _forward_4b_to_4d(self, x: Tensor) -> Tensor:
        x = self.inception4b(x)  # N x 512 x 4 x 4
        x = self.inception4c(x)  # N x 512 x 4 x 4
        x = self.inception4d(x)  # N x 528 x 4 x 4
        return x  # noqa: RET504

    def _forward_from_4e(self, x: Tensor) -> Tensor:
        x = self.inception4e(x)  # N x 832 x 4 x 4
        x = self.maxpool4(x)  # N x 832 x 2 x 2
        x = self.inception5a(x)  # N x 832 x 2 x 2
        x = self.inception5b(x)  # N x 1024 x 2 x 2
        return x  # noqa: RET504

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute the last map: [batch, in_chans, height, width] -> [batch, 1024, ~height/32, ~width/32]."""
        return self._forward_from_4e(self._forward_4b_to_4d(self._forward_to_4a(x)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Compute the logits [batch, num_classes] from the last map, or the classifier's input."""
        x = self.global_pool(x)
        x = self.head_drop(x)
        if not pre_logits:
            x = self.fc(x)
        return x

    def _forward_with_aux(self, x: Tensor) -> GoogLeNetOutputs:
        assert self.aux1 is not None
        assert self.aux2 is not None
        x = self._forward_to_4a(x)
        aux_logits1 = self.aux1(x)
        x = self._forward_4b_to_4d(x)
        aux_logits2 = self.aux2(x)
        logits = self.forward_head(self._forward_from_4e(x))
        return GoogLeNetOutputs(logits, aux_logits2, aux_logits1)

    # No return annotation: without one, TorchScript infers Tensor; it cannot return Tensor or GoogLeNetOutputs.
    def forward(self, x: Tensor):  # type: ignore[no-untyped-def]
        """Compute the logits, in training with those of the auxiliary heads if there are any."""
        if self.aux_logits and self.training:
            if is_scripting():
                raise RuntimeError("A scripted GoogLeNet has no auxiliary heads: train it unscripted, or call eval().")
            else:  # noqa: RET506  without it TorchScript would compile the other return type too
                return self._forward_with_aux(x)
        return self.forward_head(self.forward_features(x))


def checkpoint_filter_fn(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Fit a checkpoint, ours or torchvision's, to a model with or without auxiliary heads.

    The heads' weights are dropped where the model has no heads. Where the checkpoint has none, or has them for another
    number of classes, the model's heads keep their initial values.
    """
    adapted = {name: value for name, value in state_dict.items() if not name.startswith(("aux1.", "aux2."))}
    for name, drawn in model.state_dict().items():
        if name.startswith(("aux1.", "aux2.")):
            value = state_dict.get(name, drawn)
            adapted[name] = value if value.shape == drawn.shape else drawn
    return adapted


def _create_googlenet(variant: str, pretrained: bool, **kwargs: Any) -> GoogLeNet:
    return build_model(GoogLeNet, variant, pretrained, pretrained_filter_fn=checkpoint_filter_fn, **kwargs)


default_cfgs = {
    # 32x32 is our choice, as for vanilla_vgg16: the paper does not say what its vanilla networks saw.
    **dataset_cfgs(
        "vanilla_googlenet",
        32,
        first_conv="conv1.conv",
        classifier="fc",
        paper_name="Going Deeper with Convolutions",
        paper_ids="arXiv:1409.4842",
    ),
    **dataset_cfgs(
        "improved_googlenet",
        64,
        first_conv="conv1.0.conv",
        classifier="fc",
        paper_name=PAPER,
    ),
}


@register_model
def vanilla_googlenet(pretrained: bool = False, **kwargs: Any) -> GoogLeNet:
    """Torchvision's GoogLeNet: 5,610,154 parameters with 10 classes, 9,960,638 with `aux_logits=True`."""
    return _create_googlenet("vanilla_googlenet", pretrained, **kwargs)


@register_model
def improved_googlenet(pretrained: bool = False, **kwargs: Any) -> GoogLeNet:
    """Section 4's GoogLeNet, with a stem of three 3x3 convolutions: 5,629,386 parameters with 10 classes."""
    return _create_googlenet("improved_googlenet", pretrained, **dict({"stem": "deep"}, **kwargs))
