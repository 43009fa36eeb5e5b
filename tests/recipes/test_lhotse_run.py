"""The run from a corpus that only Lhotse has seen to an exported student: the commands of the documents."""

import os
import re
import subprocess
import sys
from pathlib import Path

from lhotse import CutSet
from warm_kdasr import warm_folder

from kdasr.data.folder import load_cuts
from kdasr.testing import write_corpus

ROOT = Path(__file__).parents[2]
TINY = (ROOT / "egs" / "librispeech" / "conf" / "tiny.yaml").read_text(encoding="utf-8")


def documented_run() -> str:
    """The block of commands that begins with a corpus and a configuration."""
    text = (ROOT / "docs" / "corpora.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```bash\n(corpus=.*?)```", text, flags=re.DOTALL)
    return str(block)


def test_the_documented_run_from_lhotse_to_an_export(tmp_path: Path) -> None:
    """As it stands, but for the corpus and the configuration, which its first line names."""
    corpus = write_corpus(tmp_path / "corpus", ("train-clean-100", "dev-clean"), speakers=2, utterances=4)
    conf = tmp_path / "two_steps.yaml"
    conf.write_text(re.sub(r"num_steps: \d+", "num_steps: 2", TINY))
    first, rest = documented_run().split("\n", maxsplit=1)
    assert re.fullmatch(r"corpus=\S+ conf=egs/librispeech/conf/[\w-]+\.yaml", first)
    assert (ROOT / first.rpartition("=")[2]).is_file()
    path = os.pathsep.join([str(warm_folder()), str(Path(sys.executable).parent), os.environ["PATH"]])
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"corpus={corpus} conf={conf}\n{rest}"],
        cwd=tmp_path,
        env=os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    theirs = {cut.id for cut in CutSet.from_shar(in_dir=tmp_path / "shar" / "train")}
    ours = load_cuts(tmp_path / "data" / "shar", "train")
    assert len(theirs) == len(ours) == 8
    assert "8 of 8 utterances identical" in result.stdout
    assert (tmp_path / "exp" / "shar" / "two-stage" / "export" / "encoder.onnx").is_file()
