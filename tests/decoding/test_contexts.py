"""The cache of predictor outputs, used by several threads at a time."""

import sys
from collections.abc import Iterator
from threading import Thread

import pytest
import torch
from decoding_helpers import make_model

from kdasr.decoding.contexts import PredictorCache
from kdasr.models.predictors.base import LastPieces


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hasty_threads")
def test_threads_get_the_outputs_of_their_own_contexts() -> None:
    model = make_model()
    wrong: list[int] = []

    def ask(cache: PredictorCache, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for step in range(60):
            contexts_NK = torch.randint(0, 5, (4, 2), generator=generator)
            found = cache.gather([tuple(row) for row in contexts_NK.tolist()])
            expected = model.joiner.project_predictor(model.predictor.predict(LastPieces(contexts_NK)))
            if not torch.allclose(found, expected, atol=1e-6):
                wrong.append(step)

    with torch.inference_mode():
        for round_ in range(20):
            cache = PredictorCache(model, capacity=12)  # so that it is emptied now and then
            threads = [Thread(target=ask, args=(cache, 10 * round_ + number)) for number in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    assert wrong == []
