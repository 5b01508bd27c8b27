"""The handwritten digits that ship inside scikit-learn: 1797 images of 8×8 pixels, ten classes.

Source: UCI "Optical Recognition of Handwritten Digits", E. Alpaydin and C. Kaynak (1998), its test set.
"""

import torch

from lpgpu.data.dataset import Dataset

TEST_IMAGES = 360
SPLIT_SEED = 0
BRIGHTEST = 16.0  # pixels are counts 0 … 16


def load_digits() -> Dataset:
    """1437 training and 360 test images, float32 `[n, 1, 8, 8]` in [0, 1], with labels 0 … 9.

    The split is stratified by label and always the same (scikit-learn's `train_test_split`, random state 0).
    """
    from sklearn.datasets import load_digits as load_arrays  # takes a second to import: only who asks pays
    from sklearn.model_selection import train_test_split

    images, labels = load_arrays(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        images, labels, test_size=TEST_IMAGES, stratify=labels, random_state=SPLIT_SEED
    )
    return Dataset(
        train_inputs=_images(train_x),
        train_labels=torch.as_tensor(train_y, dtype=torch.int64),
        test_inputs=_images(test_x),
        test_labels=torch.as_tensor(test_y, dtype=torch.int64),
        classes=10,
    )


def _images(pixels) -> torch.Tensor:
    return torch.as_tensor(pixels / BRIGHTEST, dtype=torch.float32).reshape(-1, 1, 8, 8)
