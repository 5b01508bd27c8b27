"""A convolutional ODE network on MNIST: handwritten digits, 28×28 pixels, ten classes. See `image_recipe`."""

from lpgpu.data import MNIST
from lpgpu.train.setup.image_recipe import image_recipe

RECIPE = image_recipe(MNIST, "mnist", "MNIST")
