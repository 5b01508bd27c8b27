"""A convolutional ODE network on Fashion-MNIST: pictures of clothes, 28×28 pixels, ten classes. See `image_recipe`."""

from lpgpu.data import FASHION_MNIST
from lpgpu.train.setup.image_recipe import image_recipe

RECIPE = image_recipe(FASHION_MNIST, "fashion-mnist", "Fashion-MNIST")
