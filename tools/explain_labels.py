"""What labels of speech without transcripts are worth: `python tools/explain_labels.py MODEL LM`.

Labels of utterances whose transcripts are known, by rules of semi-supervised training, beside what could be
had from the same proposals. Word error rates in percent are of labelled utterances, each label weighted as
in the loss:

    WER      of the labels
    first    of the best-scored proposal of the same utterances
    best     of the proposal with the fewest errors: no choice among these proposals is better

So first less WER is what the choice gains, WER less best what it still loses; best is the proposals' own
limit, and the share of labelled utterances is what the filters leave.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch

from kdasr.checkpoint import load_bundle
from kdasr.common.errors import UserError
from kdasr.data.config import DataConfig
from kdasr.data.loader import load_cuts, valid_batches
from kdasr.decoding.wer import word_errors
from kdasr.distillation.config import LabelConfig
from kdasr.distillation.labels import FirstGuess, Labeller, Labels, Proposal
from kdasr.distillation.proposals import ProposalModel, first_guesses
from kdasr.streaming.language_model import load_sentence_scorer

RULES = {
    "local prior matching": LabelConfig(),
    "  any length": LabelConfig(length_tolerance=None),
    "  within 3 nats": LabelConfig(max_gap=3.0),
    "  within 3 nats, filtered": LabelConfig(max_gap=3.0, worst_share=0.1),
    "  uniform prior": LabelConfig(weights="uniform"),
    "one-best": LabelConfig(one_best=True, weights="uniform", length_tolerance=None),
    "  filtered": LabelConfig(
        one_best=True, weights="uniform", length_tolerance=None, max_repeats=4, worst_share=0.1
    ),
}


@dataclass(frozen=True)
class Heard:
    """An utterance and what is proposed for it."""

    name: str
    num_words: int
    proposals: list[Proposal]
    errors: dict[tuple[int, ...], int]
    """Word errors of each proposal."""


def describe(heard: list[Heard], labels: Labels) -> list[float]:
    """Share of labelled utterances, and word error rates of labels, first and best proposals; in percent."""
    chosen = first = best = 0.0
    labelled = words = 0
    for owner, weights_K, pieces in labels.shares():
        errors = heard[owner].errors
        chosen += sum(weight * errors[row] for weight, row in zip(weights_K.tolist(), pieces, strict=True))
        first += errors[heard[owner].proposals[0].pieces]
        best += min(errors.values())
        labelled += 1
        words += heard[owner].num_words
    words = max(words, 1)
    return [100 * labelled / len(heard), *(100 * count / words for count in (chosen, first, best))]


def main() -> None:
    """Search, label by every rule, print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="experiment folder of the proposal model")
    parser.add_argument("language_model", type=Path, help="its folder, or text for a word trigram")
    parser.add_argument("--data", type=Path, default=Path("data/lpm"), help="prepared data")
    parser.add_argument("--part", default="train-clean-360", help="a prepared part with transcripts")
    parser.add_argument("--beams", default="4", help="numbers of proposals, such as '4 8'")
    parser.add_argument("--utterances", type=int, default=500, help="how many of the part, from its begin")
    arguments = parser.parse_args()
    if arguments.utterances < 1:
        parser.error(f"--utterances {arguments.utterances}: expected 1 or more")

    torch.set_num_threads(1)
    bundle = load_bundle(arguments.model)
    scorer = load_sentence_scorer(arguments.language_model, bundle.tokenizer, str(arguments.model))
    proposal = ProposalModel(bundle.model, bundle.context, bundle.context)
    cuts = load_cuts(arguments.data, arguments.part).filter(lambda cut: "_sp" not in cut.id)
    cuts = cuts.subset(first=arguments.utterances)
    batches = list(valid_batches(cuts, bundle.tokenizer, DataConfig(dir=str(arguments.data))))
    greedy = first_guesses(proposal, batches, "cpu")
    print(f"{'beam':>4}  {'labels':24} {'labelled':>8} {'WER':>6} {'first':>6} {'best':>6}")
    for beam in map(int, arguments.beams.split()):
        guesses, heard = {}, []
        for batch in batches:
            listed = proposal.propose(batch.features_BTF, batch.feature_lens_B, beam)
            for name, text, proposals in zip(batch.ids, batch.texts, listed, strict=True):
                texts = {p.pieces: bundle.tokenizer.decode(list(p.pieces)) for p in proposals}
                errors = {pieces: word_errors(text, said).total for pieces, said in texts.items()}
                guesses[name] = FirstGuess(greedy[name].num_pieces, proposals[0].score_per_piece)
                heard.append(Heard(name, len(text.split()), proposals, errors))
        for rule, config in RULES.items():
            labeller = Labeller(config, guesses, scorer)
            labels = labeller([one.name for one in heard], [one.proposals for one in heard], "cpu")
            figures = describe(heard, labels)
            print(
                f"{beam:4}  {rule:24} {figures[0]:8.1f} "
                + " ".join(f"{figure:6.2f}" for figure in figures[1:])
            )


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
