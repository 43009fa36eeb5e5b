"""What docs/extending.md shows is in the files that the other tests of this folder run."""

import re
from pathlib import Path

HERE = Path(__file__).parent
PAGE = (HERE.parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
USE = "recognizer.search = SureSearch"
"""Of the one block that stands for a reader's own script."""


def test_every_block_is_copied_from_a_file_that_the_page_links_to() -> None:
    examples = re.findall(r"\(\.\./tests/extending/(\w+)\.py\)", PAGE)
    texts = [(HERE / f"{name}.py").read_text(encoding="utf-8") for name in examples]
    blocks = [
        block for block in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL) if USE not in block
    ]
    assert len(blocks) > 5
    for block in blocks:
        assert any(block in text for text in texts), block


def test_every_example_has_a_walk_and_a_test_that_imports_it() -> None:
    tests = "".join(path.read_text(encoding="utf-8") for path in HERE.glob("test_new_*.py"))
    examples = [path.stem for path in HERE.glob("*.py") if not path.stem.startswith("test_")]
    assert examples
    for name in examples:
        assert f"{name}.py)" in PAGE and f"from {name} import" in tests, name
