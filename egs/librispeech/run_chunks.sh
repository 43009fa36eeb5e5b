#!/usr/bin/env bash
# One student for all chunk sizes: what a longer wait buys, in words and in latency of the first token.
#
#   egs/librispeech/run_chunks.sh [options of run.sh, see run.sh --help]
#
# Trains the `unified` system of the configuration (its chunk is drawn anew for every batch, 80 ms to 1.28 s) from the
# teacher, which is trained first where there is none, and streams the test parts under every one of its chunks. The
# report has a table and a plot of them.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
# shellcheck source=local/messages.sh
. "$here/local/messages.sh"
# shellcheck source=local/parse_options.sh
. "$here/local/parse_options.sh"
# shellcheck source=local/jobs.sh
. "$here/local/jobs.sh"

arguments=("$@")
corpus=synthetic size="" conf="" corpus_dir="" alignments_dir="" parts="" data="" exp="" vocab_size=""
systems="" seed=1 jobs=1 stage=0 stop_stage=9 gain_db=""
overrides=()
parse_options "$@"
size=${size:-demo}
conf=${conf:-$here/conf/$size.yaml}
name=$size
if [[ $corpus == librispeech && $size != librispeech ]]; then name=librispeech-$size; fi
data=${data:-$root/data/$name}
exp=${exp:-$root/exp/$name}
parts=${parts:-"test-clean test-other"}
test_parts=$(select_parts test)

"$here/run.sh" "${arguments[@]}" --systems "teacher unified" --stage 0 --stop-stage 7

say "Streaming decoding under every chunk"
left=$(sed -n '/^  unified:/,/stages:/s/.*\[{left: \([0-9]*\),.*/\1/p' "$conf")
for chunk in 2 4 8 16 32; do
  launch "decode-chunk-$chunk" kdasr decode "$exp/unified" --data "$data" --parts "$test_parts" \
    --context "left=$left,chunk=$chunk" --out "$exp/unified/contexts/chunk-$chunk" ${gain_db:+--gain-db "$gain_db"}
done
launch decode-unified kdasr decode "$exp/unified" --data "$data" --parts "$test_parts"
finish_all
kdasr report "$exp" --data "$data"
