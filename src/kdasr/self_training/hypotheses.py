"""Distillation without transcripts: the terms of the objective on what the teacher says of an utterance.

Terms that need no text, such as `hidden_mse`, are computed as they are: an unpaired batch has all that they
look at. The others (`output_kl`, `path_kl`, `rnnt`, `mode_kl`) live on the lattice of a text: that of the
teacher's hypothesis, searched when the batch's turn comes, or of labels that the parts have.
"""

# Shapes: B utterances, S pieces.

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.nn.utils.rnn import pad_sequence

from kdasr.common.errors import UserError
from kdasr.common.files import read_object, write_json
from kdasr.common.ranges import check_options
from kdasr.data.batch import Batch
from kdasr.data.text_normalization import split_words
from kdasr.decoding.expansion import BeamOptions
from kdasr.distillation.objective import Objective
from kdasr.distillation.objective_config import UnpairedConfig
from kdasr.distillation.step import Denominators, Losses, StepInput, StepObjective
from kdasr.distillation.teacher import Transcriber
from kdasr.distillation.terms.base import Need, needing
from kdasr.distillation.unpaired_terms import weights_without_text
from kdasr.evaluation.wer import word_errors
from kdasr.models.transducer.model import Transducer
from kdasr.self_training.first_search import SharedSearch

MADE_BY, UTTERANCES, AUDIO, TEXTS = "made_by", "utterances", "audio", "texts"
"""Of a file of hypotheses."""
PREFIX = "unpaired_"
"""Of the names in the log, before those of the terms."""


class Decoder(Protocol):
    """What turns pieces into words: a tokenizer."""

    def decode(self, ids: list[int]) -> str: ...


@dataclass(frozen=True)
class Hypotheses:
    """Gives batches without transcripts a text."""

    teacher: Transcriber | None
    """Who says it; None: batches have a text, or need none."""
    search: BeamOptions
    tokenizer: Decoder
    search_copy: bool = False
    """Whether batches have, as what a teacher hears, a copy of the features for the search alone: in the
    terms the teacher hears what the student hears."""
    transcripts: Mapping[str, str] = field(default_factory=dict)
    """Those of utterances that have one, normalized as the pieces are; for the log alone."""

    def give(self, batch: Batch, *, needs_text: bool) -> Batch:
        """The batch with the teacher's hypotheses as its pieces, if the teacher is to say them."""
        heard = batch.for_teacher()
        if self.search_copy:
            batch = replace(batch, teacher_features_BTF=None)
        if self.teacher is None or not needs_text:
            return batch
        return with_pieces(batch, self.teacher.transcribe(heard, self.search))

    def statistics(self, batch: Batch) -> dict[str, float]:
        """Sums over a batch that has its text: `empty_labels`, utterances without a piece; and where
        transcripts are known `label_errors`, word errors, and `label_words`, those of the transcripts."""
        sums = {"empty_labels": float((batch.token_lens_B == 0).sum())}
        if not self.transcripts:
            return sums
        sums |= {"label_errors": 0.0, "label_words": 0.0}
        rows = zip(batch.ids, batch.tokens_BS.tolist(), batch.token_lens_B.tolist(), strict=True)
        for name, pieces, length in rows:
            text = self.transcripts.get(name)
            if text is not None:
                sums["label_errors"] += word_errors(text, self.tokenizer.decode(pieces[:length])).total
                sums["label_words"] += len(split_words(text))
        return sums


def with_pieces(batch: Batch, pieces: Sequence[Sequence[int]]) -> Batch:
    """The batch with other pieces of its utterances, of whose words no times are known."""
    rows = [torch.tensor(row, dtype=torch.int64) for row in pieces]
    return replace(
        batch,
        tokens_BS=pad_sequence(rows, batch_first=True).to(batch.features_BTF.device),
        token_lens_B=torch.tensor([len(row) for row in rows], dtype=torch.int64),
        word_times_BS2=None,
    )


class UnpairedDistillation(StepObjective):
    """In the place of a transducer's `Objective`, which it uses on batches of both kinds."""

    def __init__(self, paired: Objective, config: UnpairedConfig, hypotheses: Hypotheses) -> None:
        """
        Raises:
            UserError: an unknown rule or an impossible number in the configuration.
        """
        super().__init__()
        check_options(config, "unpaired")
        self.paired = paired
        self.config = config
        self.hypotheses = hypotheses

    def count(self, batch: Batch) -> Denominators:
        """See `Objective.count`."""
        return self.paired.count(batch)

    def forward(self, model: Transducer, inputs: StepInput) -> Losses:
        """The losses of a batch; see `Objective.forward`, whose terms batches of both kinds have.

        Those of an unpaired batch have the prefix `unpaired_` in the log, and their sum is multiplied by
        `unpaired.weight`. With a text there are also means over its utterances: see `Hypotheses.statistics`.

        Raises:
            UserError: see `Objective.forward`.
        """
        batch: Batch = inputs.batch
        if batch.paired:
            return self.paired(model, inputs)
        model.encoder.share = self.config.weight * inputs.share
        weights = weights_without_text(inputs.unpaired_weights, inputs.loss_weights, self.config)
        needs_text = bool(needing(Need.TEXT, weights))
        batch = self.hypotheses.give(batch, needs_text=needs_text)
        losses = self.paired(
            model,
            StepInput(
                batch,
                loss_weights=weights,
                context=inputs.context,
                step=inputs.step,
                denominators=inputs.denominators,
            ),
        )
        terms = {f"{PREFIX}{name}": value for name, value in losses.terms.items()}
        if needs_text:
            utterances = inputs.denominators.utterances if inputs.denominators else len(batch)
            for name, total in self.hypotheses.statistics(batch).items():
                terms[name] = torch.tensor(total / utterances, device=losses.total.device)
        return Losses(
            self.config.weight * losses.total,
            terms,
            {f"{PREFIX}{name}": value_B for name, value_B in losses.per_utterance.items()},
            frozenset(f"{PREFIX}{name}" for name in losses.per_frame),
        )


@dataclass(frozen=True)
class TranscriptSearch(SharedSearch):
    """The teacher's best hypothesis of each utterance, once, as text."""

    hypotheses: Hypotheses

    def find(self, batch: Batch) -> dict[str, Any]:
        """The text of each utterance; empty where the teacher says nothing."""
        assert self.hypotheses.teacher is not None
        found = self.hypotheses.teacher.transcribe(batch.to(self.device), self.hypotheses.search)
        return {
            name: self.hypotheses.tokenizer.decode(pieces)
            for name, pieces in zip(batch.ids, found, strict=True)
        }

    def save(self, path: Path, found: Mapping[str, Any]) -> None:
        """As JSON, with what made it."""
        own = {MADE_BY: self.made_by, UTTERANCES: self.data[UTTERANCES], AUDIO: self.data[AUDIO]}
        write_json(path, {**own, TEXTS: found})


def load_texts(
    path: Path, made_by: str, utterances: str, audio: str, earlier: Callable[[], str] | None = None
) -> dict[str, str]:
    """What `TranscriptSearch` has written: utterance -> text. Those that could not be read are missing.

    Args:
        path: the file.
        made_by: of the search.
        utterances: what its `data` say of them.
        audio: what they say of the audio. Earlier versions said nothing, which counts as the same.
        earlier: what earlier versions said of the utterances; asked for where that differs.

    Raises:
        UserError: not such a file, or of another teacher, another search, other utterances or other audio.
    """
    saved = read_object(path)
    texts = saved.get(TEXTS)
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise UserError(f"{path}: damaged; remove it to have it made again")
    saved.setdefault(AUDIO, audio)
    for name, now in ((MADE_BY, made_by), (UTTERANCES, utterances), (AUDIO, audio)):
        if saved.get(name) != now and not (name == UTTERANCES and earlier and saved.get(name) == earlier()):
            raise UserError(
                f"{path}: {name} was {saved.get(name)} and is {now} now; remove it to search again"
            )
    return texts
