"""Hugging Face's own models, built from a configuration (no weights are loaded), made layer-parallel and back."""

import copy

import pytest
import torch

from lpgpu import MGRIT, parallelize, unparallelize
from tests.assertions import assert_close_relative
from tests.integration.gpt2 import EXACT, gpt2, loss_of

transformers = pytest.importorskip("transformers", reason="needs Hugging Face's transformers: pip install transformers")


def test_gpt2_is_trained_in_parallel_and_comes_back() -> None:
    model = gpt2()
    reference, tokens = copy.deepcopy(model), torch.randint(0, 17, (2, 9))
    mask = torch.ones(2, 9, dtype=torch.int64)
    mask[1, 6:] = 0
    names = list(model.state_dict())
    parallelize(model, "transformer.h", solver=EXACT)
    for each in (model, reference):
        optimizer = torch.optim.SGD(each.parameters(), 0.5)
        for _ in range(3):
            optimizer.zero_grad()
            loss_of(each, tokens, mask).backward()
            optimizer.step()
    unparallelize(model, "transformer.h")
    assert list(model.state_dict()) == names
    for (name, one), other in zip(model.named_parameters(), reference.named_parameters(), strict=True):
        assert_close_relative(one, other[1], name, tolerance=1e-10)
    assert_close_relative(loss_of(model, tokens, mask), loss_of(reference, tokens, mask), tolerance=1e-10)


def test_an_inexact_solve_trains() -> None:
    """A hundred steps with dropout, one cycle each: the loss falls far below that of guessing."""
    model, tokens = gpt2(dropout=0.1).float(), torch.randint(0, 17, (4, 9))
    parallelize(model, "transformer.h", solver=MGRIT(levels=2, coarsening=2, iterations=1, adjoint_iterations=1))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        loss = loss_of(model, tokens)
        loss.backward()
        optimizer.step()
    unparallelize(model, "transformer.h")
    assert loss_of(model.eval(), tokens).item() < 1.0 < torch.log(torch.tensor(17.0)).item()


def test_a_cache_is_refused_with_the_cure() -> None:
    model = gpt2()
    parallelize(model, "transformer.h", solver=EXACT)
    with pytest.raises(TypeError, match="use_cache=False"):
        model(input_ids=torch.randint(0, 17, (1, 4)), use_cache=True)


def test_the_trainer_trains_it_as_it_trains_the_model_itself(tmp_path) -> None:
    """Hugging Face's Trainer, on accelerate: four steps, evaluation, weight decay; then weights that load again."""
    pytest.importorskip("accelerate", reason="Hugging Face's Trainer needs accelerate: pip install accelerate")
    tokens = torch.randint(0, 17, (16, 9))
    data = [{"input_ids": row, "labels": row} for row in tokens]
    reference, model = gpt2(), gpt2()
    parallelize(model, "transformer.h", solver=EXACT)
    logs = []
    for each in (reference, model):
        arguments = transformers.TrainingArguments(
            str(tmp_path),
            max_steps=4,
            per_device_train_batch_size=4,
            learning_rate=1e-2,
            weight_decay=0.1,
            eval_strategy="steps",
            eval_steps=2,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = transformers.Trainer(each, arguments, train_dataset=data, eval_dataset=data)
        trainer.train()
        logs.append([log[name] for log in trainer.state.log_history for name in ("loss", "eval_loss") if name in log])
    unparallelize(model, "transformer.h")
    assert len(logs[0]) == 6
    assert_close_relative(torch.tensor(logs[1]), torch.tensor(logs[0]), tolerance=1e-10)
    for (name, one), other in zip(model.named_parameters(), reference.named_parameters(), strict=True):
        assert_close_relative(one, other[1], name, tolerance=1e-8)
    model.save_pretrained(tmp_path / "saved")
    again = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "saved")
    assert all(torch.equal(again.state_dict()[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("what", ["output_hidden_states", "output_attentions"])
def test_what_asks_for_the_inside_of_blocks_is_refused_with_the_cure(what: str) -> None:
    model, tokens = gpt2().eval(), torch.randint(0, 17, (1, 4))
    parallelize(model, "transformer.h", solver=EXACT)
    with torch.no_grad(), pytest.raises(RuntimeError, match=f"turn off .*{what}"):
        model(input_ids=tokens, **{what: True})
    model(input_ids=tokens)
    unparallelize(model, "transformer.h")
    assert len(model(input_ids=tokens, output_hidden_states=True).hidden_states) == 7
