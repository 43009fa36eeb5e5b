# What every script here says. Sourced, not run.

die() {
  echo "$(basename "$0"): error: $*" >&2
  exit 1
}

say() { printf '\n== %s  [%s]\n' "$*" "$(date +%H:%M:%S)"; }

# The comment at the top of the script.
usage() { sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//;p;}' "$0"; }

# now COMMAND...: runs it; with --dry-run (the array dry_run) prints it instead.
now() {
  if ((${#dry_run[@]})); then
    printf '\t%s\n' "$(printf '%q ' "$@")"
  else
    "$@"
  fi
}
