"""Work that processes share out comes to what one process makes of it, to the last bit."""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_system import trainer_config
from two_processes import run_two, under_torchrun

from kdasr.common.ranks import Ranks
from kdasr.data.data_config import DataConfig
from kdasr.data.tokenizer import Tokenizer, copy_tokenizer
from kdasr.data.valid_batches import ValidBatches
from kdasr.decoding.expansion import BeamOptions
from kdasr.distillation.objective import Objective
from kdasr.distillation.terms import ObjectiveConfig
from kdasr.nn.context import Context
from kdasr.self_training import first_search
from kdasr.self_training.first_search import FirstSearch
from kdasr.self_training.proposals import ProposalModel, seed_hypotheses
from kdasr.testing import dummy_cuts, tiny_model
from kdasr.training.devices import make_fabric
from kdasr.training.module import TrainingModule
from kdasr.training.step_errors import DevPieces
from kdasr.training.transducer import validate_transducer

NUM_CUTS = 11
GUESSES = "first_guesses.json"


def dev_batches(tokenizer: Tokenizer, num_workers: int = 0) -> ValidBatches:
    """Five batches of one to three utterances."""
    config = DataConfig(max_duration=7.0, num_workers=num_workers)
    return ValidBatches(dummy_cuts(NUM_CUTS, with_features=True), tokenizer, config)


def first_search_of(tokenizer: Tokenizer, batches: ValidBatches) -> FirstSearch:
    model = tiny_model(seed=2, vocab_size=tokenizer.vocab_size)
    proposal = ProposalModel(model, Context.full(), Context.full())
    return FirstSearch(batches, "cpu", "tiny", {}, proposal, BeamOptions(beam=2, blank_penalty=3.0))


def work(tokens: Path, out: Path) -> None:
    """Dev results and first guesses of this process, or of the group that it belongs to."""
    tokenizer = Tokenizer.load(tokens)
    fabric = make_fabric(trainer_config())
    batches = dev_batches(tokenizer, num_workers=1)
    model = tiny_model(vocab_size=tokenizer.vocab_size)
    module = TrainingModule(model, Objective(ObjectiveConfig(), model.config, None))
    weights = {"rnnt": 1.0, "ctc": 0.5}
    # In pieces: what a batch is split into is added where the batch is.
    pieces = DevPieces(batches, 2, [])
    found = validate_transducer(fabric, module, pieces, tokenizer, Context(left=8, chunk=4), weights)
    assert found is not None
    # A signal reaches one of two.
    asked = fabric.world_size > 1 and fabric.global_rank == 1
    stopped = validate_transducer(
        fabric, module, pieces, tokenizer, Context(left=8, chunk=4), weights, lambda: asked
    )
    assert (stopped is None) == (fabric.world_size > 1)
    out.mkdir(exist_ok=True)
    results = {"total": found.total, "terms": found.terms, "scores": found.scores}
    (out / f"{fabric.global_rank}.json").write_text(json.dumps(results))
    ranks = Ranks(fabric.global_rank, fabric.world_size)
    first_search_of(tokenizer, batches).run(out / GUESSES, ranks)


def work_of_rank(rank: int, port: int, tokens: Path, out: Path) -> None:
    under_torchrun(rank, port)
    work(tokens, out)


def test_two_processes_find_what_one_finds(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    copy_tokenizer(tokenizer, tokens)
    work(tokens, tmp_path / "one")
    assert run_two(work_of_rank, tokens, tmp_path / "two") == [0, 0]
    expected = (tmp_path / "one" / "0.json").read_text()
    assert [(tmp_path / "two" / f"{rank}.json").read_text() for rank in range(2)] == [expected, expected]
    assert json.loads(expected)["scores"]["wer"] > 0
    guesses = [(tmp_path / name / GUESSES).read_text() for name in ("one", "two")]
    assert guesses[0] == guesses[1] and guesses[0].count("cut-") == NUM_CUTS
    assert {path.name for path in (tmp_path / "two").iterdir()} == {"0.json", "1.json", GUESSES}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_each_process_makes_its_own_batches_alone(
    tokenizer: Tokenizer, num_workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = dev_batches(tokenizer, num_workers)
    whole = [batch.ids for batch in batches]
    shares = [[(number, batch.ids) for number, batch in batches.share(rank, 3)] for rank in range(3)]
    assert [[number for number, _ in share] for share in shares] == [
        list(range(rank, len(whole), 3)) for rank in range(3)
    ]
    assert all(ids == whole[number] for share in shares for number, ids in share)
    assert [number for number, _ in batches.without({0, 3}).share(1, 2)] == [
        number for number in range(1, len(whole), 2) if number != 3
    ]
    assert [batch.ids for batch in batches.first(2)] == whole[:2]
    if not num_workers:
        made: list[Any] = []
        original = batches._dataset.__class__.__getitem__
        monkeypatch.setattr(
            batches._dataset.__class__,
            "__getitem__",
            lambda self, plan: made.append(plan.number) or original(self, plan),
        )
        assert len(list(batches.share(1, 2))) == len(made) == len(whole) // 2


def test_an_interrupted_search_goes_on_after_what_it_has_found(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = first_search_of(tokenizer, dev_batches(tokenizer))
    search.run(tmp_path / "whole.json", Ranks())
    searched: list[str] = []

    def stopping(*arguments: Any) -> Any:
        if len(searched) == 2:
            raise KeyboardInterrupt
        searched.append(arguments[1][0].ids[0])
        return seed_hypotheses(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(first_search, "seed_hypotheses", stopping)
        with pytest.raises(KeyboardInterrupt):
            search.run(tmp_path / "parts.json", Ranks())

    def noting(*arguments: Any) -> Any:
        searched.append(arguments[1][0].ids[0])
        return seed_hypotheses(*arguments)

    monkeypatch.setattr(first_search, "seed_hypotheses", noting)
    search.run(tmp_path / "parts.json", Ranks())
    assert len(searched) == len(set(searched)) == len(search.batches)
    assert (tmp_path / "parts.json").read_text() == (tmp_path / "whole.json").read_text()


@pytest.mark.parametrize("ranks", [Ranks(), Ranks(1, 2)])
def test_what_an_interrupted_search_could_not_read_is_searched_again(
    tokenizer: Tokenizer, tmp_path: Path, ranks: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever process had the batch: here one of two is interrupted, and one process goes on."""
    search = first_search_of(tokenizer, dev_batches(tokenizer))
    search.run(tmp_path / "whole.json", Ranks())
    searched: list[str] = []

    def lacking(*arguments: Any) -> Any:
        if searched:
            raise KeyboardInterrupt
        found = seed_hypotheses(*arguments)
        searched.append(next(iter(found)))
        del found[searched[0]]
        return found

    with monkeypatch.context() as patch:
        patch.setattr(first_search, "seed_hypotheses", lacking)
        with pytest.raises(KeyboardInterrupt):
            search.run(tmp_path / "parts.json", ranks)
    search.run(tmp_path / "parts.json", Ranks())
    assert (tmp_path / "parts.json").read_text() == (tmp_path / "whole.json").read_text()
