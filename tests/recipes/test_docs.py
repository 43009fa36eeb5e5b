"""The laws of the documents: one wrap, links that lead somewhere, RESULTS that is short."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md"), *ROOT.glob("egs/**/*.md")]
)
NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]


def prose(text: str) -> str:
    """A document without its code blocks and without sections that `kdasr results` fills."""
    text = re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"<!-- (results|lpm) -->.*?<!-- /\1 -->", "", text, flags=re.DOTALL)


def anchors(text: str) -> set[str]:
    """The names of a document's headings in links, as repository pages and the site make them."""
    heads = re.findall(r"^#+ (.*)$", prose(text), flags=re.MULTILINE)
    plain = (re.sub(r"[^\w\s-]", "", head.lower()).strip() for head in heads)
    return {re.sub(r"\s", "-", head) for head in plain}


@pytest.mark.parametrize("path", DOCUMENTS, ids=NAMES)
def test_prose_is_wrapped_at_120_columns(path: Path) -> None:
    lines = prose(path.read_text(encoding="utf-8")).splitlines()
    # A table row is one line; one link may be longer than a line.
    long = [line for line in lines if len(line) > 120 and not line.startswith("|") and " " in line[60:]]
    assert not [line for line in long if not re.match(r"[^ ]*\[.*\]\([^ ]*\)[^ ]*$", line)], path


@pytest.mark.parametrize("path", DOCUMENTS, ids=NAMES)
def test_links_lead_to_files_and_headings_that_exist(path: Path) -> None:
    text = re.sub(r"`[^`\n]*`", "", re.sub(r"```.*?```", "", path.read_text("utf-8"), flags=re.DOTALL))
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        name, _, heading = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        if heading:
            assert heading in anchors(target.read_text(encoding="utf-8")), link


def test_results_are_short_and_name_every_csv_file() -> None:
    recipe = ROOT / "egs" / "librispeech"
    text = (recipe / "RESULTS.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 250
    files = {path.name for path in (recipe / "results").glob("*.csv")}
    named = set(re.findall(r"results/([\w-]+\.csv)", text))
    assert files and files == named
