"""The six networks of "Deep Networks for Image Classification". Importing this package registers them with timm."""

from zoo import googlenet, resnet, vgg

__all__ = ["vgg", "resnet", "googlenet"]
