# Named jobs, at most $jobs at once, each with a log in $exp/log; sourced by run.sh.
#
#   launch NAME COMMAND...   run it: in the foreground when $jobs is 1, else behind, as soon as there is room
#   finish NAME              wait for it (nothing to do when it was never launched); its failure ends the recipe
#   finish_all               wait for every job

declare -A job_pid=()

launch() {
  local name=$1
  shift
  if ((jobs == 1)); then
    "$@"
    return
  fi
  while (($(running_jobs) >= jobs)); do wait_a_moment; done
  mkdir -p "$exp/log"
  echo "started $name; log: $exp/log/$name.log"
  # Monitor mode gives the job a process group of its own, so that stopping it stops all of it. The trap keeps
  # the subshell until its command has ended (a training saves a checkpoint first); commands do not inherit it.
  set -m
  (trap : TERM && "$@") >"$exp/log/$name.log" 2>&1 &
  set +m
  job_pid[$name]=$!
}

running_jobs() {
  local name count=0
  for name in "${!job_pid[@]}"; do
    if kill -0 "${job_pid[$name]}" 2>/dev/null; then count=$((count + 1)); fi
  done
  echo "$count"
}

# Returns when a job ended or half a minute has passed; in the latter case says how far the jobs are.
wait_a_moment() {
  local before second
  before=$(running_jobs)
  for second in {1..30}; do
    sleep 1
    if (($(running_jobs) < before)); then
      collect
      return
    fi
  done
  show_progress
}

show_progress() {
  local name
  for name in "${!job_pid[@]}"; do
    if kill -0 "${job_pid[$name]}" 2>/dev/null; then
      printf '  %-28s %s\n' "$name" "$(tail -n 1 "$exp/log/$name.log" 2>/dev/null | cut -c 1-130)"
    fi
  done
}

# Reaps the jobs that have ended; the first failure ends the recipe.
collect() {
  local name
  for name in "${!job_pid[@]}"; do
    if ! kill -0 "${job_pid[$name]}" 2>/dev/null; then reap "$name"; fi
  done
}

reap() {
  local name=$1 status=0
  wait "${job_pid[$name]}" || status=$?
  unset "job_pid[$name]"
  if ((status)); then
    echo "run.sh: $name failed with status $status; the end of $exp/log/$name.log:" >&2
    tail -n 20 "$exp/log/$name.log" >&2
    exit "$status"
  fi
  echo "finished $name  [$(date +%H:%M:%S)]"
}

finish() {
  local name=$1
  while [[ -n ${job_pid[$name]-} ]]; do
    if kill -0 "${job_pid[$name]}" 2>/dev/null; then wait_a_moment; else reap "$name"; fi
  done
}

finish_all() {
  local name
  for name in "${!job_pid[@]}"; do finish "$name"; done
}

# Whatever ends the recipe ends its jobs, which save a checkpoint when they are told to stop.
stop_jobs() {
  local status=$? name
  trap - EXIT INT TERM
  for name in "${!job_pid[@]}"; do
    kill -TERM -- "-${job_pid[$name]}" 2>/dev/null || true
  done
  for name in "${!job_pid[@]}"; do wait "${job_pid[$name]}" 2>/dev/null || true; done
  exit "$status"
}
trap stop_jobs EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
