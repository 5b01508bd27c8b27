"""The sequences are the digits' pixels, row after row."""

import torch

from lpgpu.data import load_digits, load_seq_digits


def test_sequences_are_the_images_row_after_row():
    images, sequences = load_digits(), load_seq_digits()
    mean, std = images.train_inputs.double().mean(), images.train_inputs.double().std(correction=0)
    assert sequences.train_inputs.shape == (1437, 64, 1) and sequences.test_inputs.shape == (360, 64, 1)
    for steps, pixels in (
        (sequences.train_inputs, images.train_inputs),
        (sequences.test_inputs, images.test_inputs),
    ):
        torch.testing.assert_close(
            steps[:, 8 * 2 + 3, 0].double(), (pixels[:, 0, 2, 3] - mean) / std, check_dtype=False
        )
        torch.testing.assert_close(steps.flatten(), ((pixels - mean) / std).flatten().float())
    assert torch.equal(sequences.train_labels, images.train_labels) and sequences.classes == 10
