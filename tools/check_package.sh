#!/usr/bin/env bash
# A wheel from the working tree and one from the sdist: the same files, the data among them, and each runs `kdasr`
# in an environment that has nothing else of this repository.
#
#   tools/check_package.sh .venv/bin/python
#
# The empty environments see the dependencies that are installed beside the given Python, through a .pth file: to
# install torch once more would take minutes and gigabytes, and would say nothing about this package. What is beside
# an editable installation there stays out, because .pth files in a folder that a .pth file names are not read.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(cd "$(dirname "${1:?usage: tools/check_package.sh PYTHON}")" && pwd)/$(basename "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# A copy: setuptools would leave build/ in the tree, and take what an earlier build left there.
mkdir "$work/tree"
git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' file; do
    [[ ! -f "$file" ]] || printf '%s\0' "$file"
done | tar --create --null --files-from - | tar --extract --directory "$work/tree"

"$python" -m venv "$work/build"
mapfile -t requires < <("$python" -c 'import tomllib
print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")')
"$work/build/bin/python" -m pip install --quiet --disable-pip-version-check "${requires[@]}"

build() { # build sdist|wheel SOURCE OUT: prints the file's path
    mkdir -p "$3"
    (cd "$2" && "$work/build/bin/python" -c '
import sys
from setuptools import build_meta
print(getattr(build_meta, "build_" + sys.argv[1])(sys.argv[2]), file=sys.stderr)' "$1" "$3" >"$work/build.log" 2>"$work/name") ||
        { cat "$work/build.log" "$work/name" >&2; exit 1; }
    echo "$3/$(tail -n 1 "$work/name")"
}
sdist=$(build sdist "$work/tree" "$work/sdist")
mkdir "$work/unpacked"
tar --extract --gzip --file "$sdist" --directory "$work/unpacked" --strip-components 1
from_sdist=$(build wheel "$work/unpacked" "$work/wheel-from-sdist")
from_tree=$(build wheel "$work/tree" "$work/wheel")

files() { "$python" -m zipfile --list "$1" | awk 'NR > 1 { print $1 }' | sort; }
diff <(files "$from_tree") <(files "$from_sdist") || { echo "the sdist lacks files of the tree" >&2; exit 1; }
tracked() { (cd "$work/tree/src" && find kdasr -type f ! -name '*.pyc' | sort); }
diff <(tracked) <(files "$from_tree" | grep -v '\.dist-info/') || { echo "the wheel lacks files of src/" >&2; exit 1; }

for wheel in "$from_tree" "$from_sdist"; do
    env="$work/env"
    rm -rf "$env"
    "$python" -m venv "$env"
    site=$("$env/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    "$env/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-index "$wheel"
    "$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$site/dependencies.pth"
    (
        cd "$work" && unset PYTHONPATH
        "$env/bin/kdasr" --help >"$work/help"
        grep --quiet decode "$work/help"
        "$env/bin/python" -c '
import sys
from importlib.metadata import version
from importlib.resources import files
import kdasr, kdasr.report.page
assert kdasr.__file__.startswith(sys.prefix), kdasr.__file__
assert (files("kdasr") / "py.typed").is_file()
print("kdasr", version("kdasr"), "runs from", sys.argv[1])' "$(basename "$(dirname "$wheel")")"
    )
done
