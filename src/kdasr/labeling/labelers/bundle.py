"""A transducer that was trained or imported here: `bundle:EXP`, an experiment folder or a checkpoint file.

It hears whole utterances under the context that it was trained for: an offline teacher with all of it. What
`kdasr import` makes of an icefall checkpoint is such a folder.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdasr.common.errors import SYSTEM_FOLDER, UserError
from kdasr.common.files import sha256
from kdasr.labeling.base import HeardWord, Label, LabelerOptions, Speech, register_labeler
from kdasr.labeling.pieces import label_in_pieces

# What needs torch is imported where it is used: a wrong option is refused before that.
if TYPE_CHECKING:
    from kdasr.recognition.recognizer import StreamingRecognizer
    from kdasr.recognition.result import Result


class _Piece(Speech):
    """With the name of its length that batches go by."""

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.seconds


@register_labeler("bundle")
class BundleLabeler:
    """Greedy search, or beam search with a language model."""

    def __init__(self, place: str, options: LabelerOptions) -> None:
        """
        Raises:
            UserError: no system there, or a language model over other pieces or without a beam.
        """
        path = Path(place)
        if not path.exists():
            raise UserError(f"bundle:{path}: not there; expected {SYSTEM_FOLDER}, or a checkpoint file")
        if options.language_model is not None and options.beam < 2:
            raise UserError("--lm needs --beam 2 or more")
        self._options = options
        self._recognizer, checkpoint = _recognizer(path, options)
        self._sha256 = sha256(checkpoint)

    def settings(self) -> dict[str, Any]:
        """The checkpoint, and how it searches."""
        from kdasr.checkpoint import find_checkpoint

        options, model = self._options, self._options.language_model
        found: dict[str, Any] = {
            "labeler": "bundle",
            "model": self._sha256,
            "beam": options.beam,
            "longest": options.longest,
            "words": options.words,
        }
        if options.language is not None:
            found["language"] = options.language
        if model is not None:
            digest = sha256(model if model.name.endswith((".txt", ".gz")) else find_checkpoint(model))
            found |= {"lm": digest, "lm_scale": options.language_model_scale, "rescore": options.rescore}
        return found

    def label(self, batch: Sequence[Speech]) -> list[Label]:
        """See `Labeler`."""
        return label_in_pieces(batch, self._options.longest, self._label_pieces)

    def _label_pieces(self, pieces: list[Speech]) -> list[Label]:
        from kdasr.evaluation.batches import BATCH_SECONDS, batches_of
        from kdasr.recognition.offline import recognize_offline

        results: list[Result] = []
        for group in batches_of((_Piece(*piece) for piece in pieces), BATCH_SECONDS):
            results += recognize_offline(self._recognizer, [piece.samples_N for piece in group])
        return [self._as_label(result, piece.seconds) for result, piece in zip(results, pieces, strict=True)]

    def _as_label(self, result: "Result", seconds: float) -> Label:
        scores = [token.log_prob for token in result.tokens]
        words = result.words if self._options.words else []
        return Label(
            text=result.text,
            score=sum(scores) / len(scores) if scores else None,
            language=self._options.language,
            # A last piece may come in the silence that the recognizer adds; the audio ends before.
            words=[
                HeardWord(word.text, min(word.start, seconds), min(word.end, seconds), word.confidence)
                for word in words
            ],
        )


def _recognizer(path: Path, options: LabelerOptions) -> "tuple[StreamingRecognizer, Path]":
    """The recognizer, and the checkpoint that it is of.

    Raises:
        UserError: no system there, no such device, or a language model over other pieces.
    """
    import torch

    from kdasr.bundle import load_bundle
    from kdasr.decoding.rescoring import Rescoring
    from kdasr.decoding.search import BeamOptions, GreedyOptions
    from kdasr.export.foreign import is_exported
    from kdasr.language_model.scorer import load_language_model, load_sentence_scorer
    from kdasr.recognition.recognizer import StreamingRecognizer

    if is_exported(path):
        raise UserError(f"bundle:{path}: an export: name the experiment that it is of, or sherpa:{path}")
    torch.set_num_threads(options.threads)
    bundle, model = load_bundle(path), options.language_model
    try:
        bundle.model.to(options.device)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UserError(f"--device {options.device}: {str(error).splitlines()[0]}") from None
    parts: dict[str, Any] = {"search": GreedyOptions()}
    if options.beam > 1:
        fused = model is not None and not options.rescore
        scale = options.language_model_scale if fused else 0.0
        parts["search"] = BeamOptions(beam=options.beam, lm_scale=scale)
    if model is not None:
        where = (model, bundle.tokenizer, str(bundle.path))
        if options.rescore:
            scorer = load_sentence_scorer(*where).to(options.device)
            parts["language_model"] = Rescoring(scorer, options.language_model_scale)
        else:
            parts["language_model"] = load_language_model(*where).to(options.device)
    return StreamingRecognizer(bundle, **parts), bundle.path
