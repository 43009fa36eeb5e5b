#!/usr/bin/env bash
# Runs a command once for the files that it reads, and keeps what it says.
#
#   once.sh RECORD FILE... -- COMMAND...
#
# Prints RECORD if that is newer than every FILE. Otherwise runs the command; what it prints becomes RECORD if it succeeds.
set -euo pipefail

record=$1 current=1
shift
while [[ $1 != -- ]]; do
  if [[ ! -e $1 || ! $record -nt $1 ]]; then current=0; fi  # -nt: also than a file that is gone
  shift
done
shift
if ((current)); then exec cat "$record"; fi
mkdir -p "$(dirname "$record")"
"$@" | tee "$record.partial"
mv "$record.partial" "$record"
