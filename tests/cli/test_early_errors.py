"""What the command line alone shows to be wrong is refused before torch and lhotse are loaded."""

import json
import subprocess
import sys

import pytest

SCRIPT = """
import json, sys
sys.modules["torch"] = sys.modules["lhotse"] = None  # to import them is an ImportError
from click.testing import CliRunner
from kdasr.cli.main import cli
from kdasr.common.errors import UserError
for line in sys.stdin:
    result = CliRunner().invoke(cli, json.loads(line))
    error = result.exception
    kind = "refused" if isinstance(error, UserError) else type(error).__name__
    print(json.dumps([kind, str(error), result.output]))
"""
EXP = "exp"
DISTILL = ("distill", "--teacher", EXP, "--out", "student")
LABEL = ("label", "--out", "labels", "--cuts", "cuts.jsonl.gz")
CUTS = ("--cuts", "train=cuts.jsonl.gz", "--cuts", "dev-a=cuts.jsonl.gz")
DECODE = ("decode", EXP, "--data", "data", "--parts", "test")
WRONG = [
    (("stream", EXP, "none.wav"), "none.wav: no such audio file"),
    (("stream", EXP, "text.wav"), "text.wav: not readable as audio"),
    (("stream", EXP, "--mic"), "--mic needs the package sounddevice"),
    (("stream", EXP, "text.wav", "--biasing", "none.txt"), "--biasing none.txt: no such file of phrases"),
    (("stream", EXP, "text.wav", "--lm", "none"), "--lm none: no such file or folder"),
    (("serve", EXP, "--example", "none.wav"), "--example none.wav: no such audio file"),
    (("serve", EXP, "--token-file", "none"), "--token-file none: no such file"),
    (("serve", EXP, "--example", "text.wav"), "text.wav: not readable as audio"),
    (("serve", EXP, "--token-file", "text.wav"), "--token-file text.wav: expected at least 16 printable"),
    (("serve", EXP, "--allow-origin", "asr.example"), "--allow-origin asr.example: expected scheme, name"),
    (("serve", EXP, "--allow-origin", "https://a.org/"), "--allow-origin https://a.org/: expected scheme"),
    (("serve", EXP, "--certificate", "none.pem"), "--certificate none.pem: no such file"),
    (("export", EXP), "--out is missing"),
    (("export", EXP, "--out", "o", "--context", "chunk=2"), "context 'chunk=2': expected"),
    (("export", EXP, "--out", "o", "--hub-layout"), "--hub-layout needs --license"),
    (("export", EXP, "--out", "o", "--license", "my own"), "--license 'my own': expected an identifier"),
    (
        ("export", EXP, "--out", "o", "--hub-layout", "--license", "mit", "--test-wavs", "none.jsonl"),
        "none.jsonl: no such manifest of cuts",
    ),
    (("export", "none", "--out", "o"), "none: not there"),
    (("export", "--check", "none", "cuts.jsonl.gz"), "--check none: no such exported folder"),
    (("export", "--check", EXP, "none.jsonl.gz"), "none.jsonl.gz: no such manifest of cuts"),
    (DISTILL, "what is to be trained on?"),
    ((*DISTILL, "--cuts", "cuts.jsonl.gz"), "--cuts cuts.jsonl.gz: expected PART=FILE_OR_FOLDER"),
    ((*DISTILL, "--cuts", "train=none.jsonl"), "--cuts train=none.jsonl: no such file or folder"),
    ((*DISTILL, *CUTS[:2]), "no part named dev...: give --cuts dev="),
    ((*DISTILL, *CUTS, "--student", "none.yaml"), "--student none.yaml: no such configuration file"),
    ((*DISTILL, "--data", "none"), "--data none: no such data folder"),
    (("import", "icefall", "none.pt", "--tokens", EXP, "--out", "o"), "none.pt: no such checkpoint"),
    (("import", "icefall", "text.wav", "--tokens", EXP, "--out", "o"), "no bpe.model there"),
    (("import", "nemo", "none.nemo", "--out", "o"), "none.nemo: no such checkpoint"),
    ((*LABEL, "--labeler", "moon:base"), "kinds: bundle, jsonl, sherpa, whisper"),
    ((*LABEL, "--labeler", "whisper"), "--labeler whisper: expected KIND:PLACE"),
    ((*LABEL, "--labeler", "bundle:none"), "bundle:none: not there; expected the folder of a system"),
    ((*LABEL, "--labeler", "jsonl:text.wav"), "text.wav, line 1: not a label"),
    ((*LABEL, "--labeler", "sherpa:none"), "sherpa:none: no such folder"),
    ((*LABEL, "--labeler", "bundle:exp", "--filter", "rate=1"), "expected two numbers"),
    ((*LABEL, "--labeler", "bundle:exp", "--normalize", "title"), "--normalize: no rule 'title'"),
    ((*LABEL, "--labeler", "bundle:exp", "--max-bad", "many"), "--max-bad 'many': expected"),
    (("label", "--labeler", "a:b", "--out", "o", "--cuts", "none"), "--cuts none: no such file or folder"),
    (("latency", "--format", "ark", "text.wav", "text.wav"), "--format ark: known are ctm, icefall, kdasr"),
    (("latency", "--format", "ctm", "text.wav", "none"), "none: no such file or folder"),
    (("latency", "--format", "ctm", "text.wav", "text.wav"), "text.wav, line 1: not in the format 'ctm'"),
    (("align", EXP, "--data", "none", "--parts", "dev"), "--data none: no such data folder"),
    (("align", EXP, "--data", "data", "--parts", ","), "--parts: name at least one part"),
    ((*DECODE, "--max-bad", "many"), "--max-bad 'many': expected"),
    ((*DECODE, "--long-form", "--mode", "offline"), "--long-form needs --mode streaming"),
    (("train", "--config", "none.yaml", "--exp", "o"), "--config none.yaml: no such configuration file"),
    (("results", "none.yaml", "--data", "data", "--exp", "o"), "none.yaml: no such configuration file"),
    *(
        ((*words, "--out", "text.wav"), "--out text.wav: there is a file of that name")
        for words in (
            ("align", EXP, "--data", "data", "--parts", "dev"),
            ("corpus", "synthetic"),
            DECODE,
            DISTILL[:3],
            ("export", EXP),
            ("import", "icefall", "text.wav", "--tokens", EXP),
            ("import", "nemo", "text.wav"),
            ("label", "--labeler", "bundle:exp", "--cuts", "cuts.jsonl.gz"),
            ("latency", "--format", "ctm", "text.wav", "text.wav"),
            ("prepare", "--cuts", "train=cuts.jsonl.gz"),
            ("report", EXP),
        )
    ),
    (("label", *LABEL[3:], "--out", "text.wav/labels"), "--out text.wav/labels: text.wav is a file"),
    (("jobs", "latin.txt", "--exp", "o"), "latin.txt: not UTF-8 text"),
    (("options", "--help"), "List every option of a recipe"),
]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    """What becomes of each command: whether it is refused, the message, and what was printed."""
    folder = tmp_path_factory.mktemp("early")
    (folder / "exp").mkdir()
    (folder / "data").mkdir()
    (folder / "cuts.jsonl.gz").touch()
    (folder / "latin.txt").write_bytes("Jürgen".encode("latin-1"))
    (folder / "text.wav").write_text("no audio\n")
    (folder / "sounddevice.py").write_text("raise ImportError('not here')")
    lines = "".join(f"{json.dumps(arguments)}\n" for arguments, _ in WRONG)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], input=lines, capture_output=True, text=True, cwd=folder, check=True
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("place", range(len(WRONG)), ids=[" ".join(arguments) for arguments, _ in WRONG])
def test_a_wrong_command_line_is_refused_at_once(outcomes: list[list[str]], place: int) -> None:
    arguments, said = WRONG[place]
    kind, message, output = outcomes[place]
    if "--help" in arguments:
        assert said in output
        return
    assert kind == "refused" and said in message, (kind, message, output)
    assert len(message.splitlines()) == 1
