# What every script here says, and the check of its numbers. Sourced, not run.

die() {
  echo "$(basename "$0"): error: $*" >&2
  exit 1
}

say() { printf '\n== %s  [%s]\n' "$*" "$(date +%H:%M:%S)"; }

# The comment at the top of the script.
usage() { sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//;p;}' "$0"; }

# whole_numbers NAME...: the variables hold whole numbers.
whole_numbers() {
  local number
  for number in "$@"; do
    [[ ${!number} =~ ^(0|[1-9][0-9]*)$ ]] || die "--${number//_/-} ${!number}: expected a whole number"
  done
}
