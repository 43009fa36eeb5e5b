"""What labels of speech without transcripts are worth: `python tools/explain_labels.py [RECIPE]`.

Every row of a recipe that learns from unpaired speech labels utterances whose transcripts are known, as at
its first step: by its own search of the first proposal model, its own filters and weights. Word error rates
in percent are of labeled utterances, each label weighted as in the loss:

    WER      of the labels
    first    of the best-scored proposal of the same utterances
    best     of the proposal with the fewest errors: no choice among these proposals is better
    likely   share of the wrong labels, the heaviest of each utterance, that the language model finds more
             probable than the transcript: no weight of this model could have told them from what was said

So first less WER is what the choice gains, WER less best what it still loses; best is the proposals' own
limit, and the share of labeled utterances is what the filters leave. `kdasr results` must have trained the
language model and the first proposal model.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from benchmarking import CONF, require, run_tool

from kdasr.bundle import load_bundle
from kdasr.common.errors import UserError
from kdasr.data.batch import Batch
from kdasr.data.data_config import DataConfig
from kdasr.data.loader import load_cuts, valid_batches
from kdasr.data.text_normalization import split_words
from kdasr.data.tokenizer import Tokenizer
from kdasr.decoding.expansion import BeamOptions
from kdasr.decoding.rescoring import SentenceScorer, sentence_scores
from kdasr.evaluation.wer import word_errors
from kdasr.language_model.scorer import load_sentence_scorer
from kdasr.self_training.labels import FirstGuess, Labeler, Labels, Proposal, label_search
from kdasr.self_training.proposals import ProposalModel, seed_hypotheses
from kdasr.study.recipe import load_recipe


@dataclass(frozen=True)
class Heard:
    """An utterance and what is proposed for it."""

    name: str
    num_words: int
    transcript: list[int]
    """Its pieces."""
    proposals: list[Proposal]
    errors: dict[tuple[int, ...], int]
    """Word errors of each proposal."""


@dataclass(frozen=True)
class Searched:
    """Some utterances under one search."""

    heard: list[Heard]
    first: dict[str, FirstGuess]


def search_all(
    proposal: ProposalModel, tokenizer: Tokenizer, batches: list[Batch], search: BeamOptions
) -> Searched:
    """The proposals of every utterance, with their word errors, and what was said of it first."""
    greedy = seed_hypotheses(proposal, batches, "cpu", replace(search, beam=1))
    first, heard = {}, []
    for batch in batches:
        listed = proposal.propose(batch.features_BTF, batch.feature_lens_B, search)
        for name, text, proposals in zip(batch.ids, batch.texts, listed, strict=True):
            texts = {p.pieces: tokenizer.decode(list(p.pieces)) for p in proposals}
            ref = tokenizer.normalize(text)
            errors = {pieces: word_errors(ref, said).total for pieces, said in texts.items()}
            first[name] = FirstGuess(greedy[name].num_pieces, proposals[0].score_per_piece)
            heard.append(Heard(name, len(split_words(ref)), tokenizer.encode(ref), proposals, errors))
    return Searched(heard, first)


def describe(heard: list[Heard], labels: Labels, scorer: SentenceScorer) -> list[float]:
    """Share of labeled utterances, word error rates of labels, first and best proposals, and the share of
    wrong labels that are likelier than the transcript; in percent.
    """
    chosen = first = best = 0.0
    labeled = words = 0
    wrong: list[Sequence[int]] = []
    right: list[Sequence[int]] = []
    for owner, weights_K, pieces in labels.shares():
        errors = heard[owner].errors
        heaviest = pieces[int(weights_K.argmax())]
        if errors[heaviest]:
            wrong.append(heaviest)
            right.append(heard[owner].transcript)
        chosen += sum(weight * errors[row] for weight, row in zip(weights_K.tolist(), pieces, strict=True))
        first += errors[heard[owner].proposals[0].pieces]
        best += min(errors.values())
        labeled += 1
        words += heard[owner].num_words
    words = max(words, 1)
    scores = zip(sentence_scores(wrong, scorer), sentence_scores(right, scorer), strict=True)
    likely = 100 * sum(label > said for label, said in scores) / max(len(wrong), 1)
    return [100 * labeled / len(heard), *(100 * count / words for count in (chosen, first, best)), likely]


def main() -> None:
    """Search, label as every row does, print a table of each part."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = CONF / "lpm" / "lpm.yaml"
    parser.add_argument("recipe", type=Path, nargs="?", default=default, help=f"default: {default}")
    parser.add_argument("--exp", type=Path, default=Path("exp/lpm"), help="where its results are")
    parser.add_argument("--seed", type=int, default=1, help="whose proposal model, default 1")
    parser.add_argument("--data", type=Path, default=Path("data/lpm"), help="prepared data")
    parser.add_argument("--utterances", type=int, default=500, help="how many of each part, from its begin")
    arguments = parser.parse_args()
    if arguments.utterances < 1:
        parser.error(f"--utterances {arguments.utterances}: expected 1 or more")

    require(arguments.exp, arguments.data, made_by="make lpm")
    torch.set_num_threads(1)
    recipe = load_recipe(arguments.recipe)
    rows = {row: config.unpaired for row, config in recipe.systems.items() if config.unpaired.parts}
    if not rows:
        raise UserError(f"{arguments.recipe}: no row has unpaired.parts")
    proposals = {options.proposal for options in rows.values()}
    if len(proposals) > 1:
        raise UserError(f"{arguments.recipe}: rows with different first proposal models")
    bundle = load_bundle(arguments.exp / f"seed-{arguments.seed}" / str(proposals.pop()), as_trained=True)
    scorer = load_sentence_scorer(arguments.exp / "lm", bundle.tokenizer, str(bundle.path))
    proposal = ProposalModel(bundle.model, bundle.context, bundle.context)
    width = max(map(len, rows))
    for part in dict.fromkeys(part for options in rows.values() for part in options.parts):
        cuts = load_cuts(arguments.data, part).filter(lambda cut: "_sp" not in cut.id)
        cuts = cuts.subset(first=arguments.utterances)
        batches = list(valid_batches(cuts, bundle.tokenizer, DataConfig(dir=str(arguments.data))))
        print(f"{part:{width}} {'beam':>5} {'labeled':>8} {'WER':>6} {'first':>6} {'best':>6} {'likely':>6}")
        searched: dict[BeamOptions, Searched] = {}
        for row, options in rows.items():
            search = label_search(options.labels)
            if search not in searched:
                searched[search] = search_all(proposal, bundle.tokenizer, batches, search)
            heard = searched[search].heard
            labeler = Labeler(options.labels, searched[search].first, scorer)
            labels = labeler([one.name for one in heard], [one.proposals for one in heard], "cpu")
            share, *rates = describe(heard, labels, scorer)
            print(f"{row:{width}} {search.beam:5} {share:8.1f} " + " ".join(f"{rate:6.2f}" for rate in rates))


if __name__ == "__main__":
    run_tool(main)
