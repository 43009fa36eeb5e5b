#!/usr/bin/env bash
# One student for all chunk sizes: what a longer wait buys, in words and in latency of the first token.
#
#   egs/librispeech/run_chunks.sh [options of run.sh but --systems, --stage and --stop-stage, see run.sh --help]
#
# Trains the `unified` system of the configuration (its chunk is drawn anew for every batch, 80 ms to 1.28 s) from the
# teacher, which is trained first where there is none, and streams the test parts under every one of its chunks. The
# report has a table and a plot of them.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=local/messages.sh
. "$here/local/messages.sh"

if [[ " $* " == *" --help "* || " $* " == *" -h "* ]]; then
  usage
  exit 0
fi
for option in "$@"; do
  case $option in
    --systems | --stage | --stop-stage) die "$option: this script chooses systems and stages itself; see run.sh" ;;
  esac
done

"$here/run.sh" "$@" --systems "teacher unified" --stage 0 --stop-stage 7
"$here/run.sh" "$@" --systems unified --all-contexts --stage 8 --stop-stage 8
"$here/run.sh" "$@" --systems "teacher unified" --stage 11 --stop-stage 11
