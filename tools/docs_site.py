"""mkdocs hooks: the site has the layout of the repository, so a relative link works on both.

mkdocs reads one folder, `docs/`; README, CONTRIBUTING and `egs/` lie beside it. Each document is given to it
under its path in the repository, and each file that a document links to (a configuration, a source file) is
copied to the same place. A page per package of `kdasr` lists what its docstrings say.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.nav import Navigation

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\]\((?![a-z]+:|#)([^)\s#]+)")
SOURCE = ROOT / "src" / "kdasr"


def documents() -> list[Path]:
    """Every document of the repository."""
    return [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *sorted(ROOT.glob("docs/**/*.md")),
        *sorted(ROOT.glob("egs/**/*.md")),
    ]


def linked_files(document: Path) -> set[Path]:
    """The files that are no documents and that a document links to."""
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = {(document.parent / link).resolve() for link in LINK.findall(text)}
    return {path for path in targets if path.is_file() and path.suffix != ".md"}


def packages() -> dict[str, list[str]]:
    """By package of `kdasr`, its modules."""
    found: dict[str, list[str]] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        if parts[-1].startswith("__"):
            continue
        package = parts[1] if len(parts) > 2 else "kdasr"
        found.setdefault(package, []).append(".".join(parts))
    return found


def api_page(package: str, modules: list[str]) -> str:
    """The Markdown of a package's page."""
    title = "kdasr" if package == "kdasr" else f"kdasr.{package}"
    blocks = [f"# `{title}`", *(f"## `{module}`\n\n::: {module}" for module in modules)]
    return "\n\n".join(blocks) + "\n"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the pages of the packages to the navigation."""
    assert config.nav is not None
    config.nav.append({"API": [{package: f"api/{package}.md"} for package in packages()]})
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Replace the files of `docs/` by all documents under their paths in the repository."""
    kept = [file for file in files if file.src_dir != config.docs_dir or file.inclusion.is_not_in_nav()]
    found = {path for document in documents() for path in (document, *linked_files(document))}
    kept += [
        File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path))
        for path in sorted(found)
    ]
    kept += [
        File.generated(config, f"api/{package}.md", content=api_page(package, modules))
        for package, modules in packages().items()
    ]
    return Files(kept)


def on_nav(nav: Navigation, *, config: MkDocsConfig, files: Files) -> Navigation:
    """Refuse a document that the navigation lacks."""
    known = {page.file.src_uri for page in nav.pages}
    missing = [path for path in documents() if path.relative_to(ROOT).as_posix() not in known]
    if missing:
        raise SystemExit(f"mkdocs.yml: nav lacks {', '.join(str(path) for path in missing)}")
    return nav
