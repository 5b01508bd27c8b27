"""The sequences are the digits' pixels, row after row."""

import torch

from lpgpu.data import load_digits, load_seq_digits


def test_sequences_are_the_images_row_after_row():
    images, sequences = load_digits(), load_seq_digits()
    assert sequences.train_inputs.shape == (1437, 64, 1) and sequences.test_inputs.shape == (360, 64, 1)
    assert torch.equal(sequences.train_inputs[5, 8 * 2 + 3, 0], images.train_inputs[5, 0, 2, 3])
    assert torch.equal(sequences.test_inputs.flatten(), images.test_inputs.flatten())
    assert torch.equal(sequences.train_labels, images.train_labels) and sequences.classes == 10
