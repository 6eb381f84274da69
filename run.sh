#!/usr/bin/env bash
# The one door of the project. The first call of any command makes .venv beside this file and installs into it.
set -euo pipefail

HERE=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
VENV=$HERE/.venv
LOG=$HERE/.venv.log
COMMANDS="setup shards config pretrain reshard export probe board test docs"
SHARDS="build validate index info show bench"

usage() {
  cat <<'USAGE'
usage: ./run.sh COMMAND [key=value ...]

  setup                                                   make or refresh .venv from pyproject.toml
  shards build source=KIND input=PATH output=DIR          files -> tar shards and their index; KIND is imagefolder,
                                                          audiofolder, textfiles, jsonl or parquet
  shards validate shards=PATTERN [deep=true]              check shards against their index
  shards index shards=PATTERN                             index shards that others built
  shards info|bench shards=PATTERN                        what they hold; how fast they are read
  shards show shards=PATTERN out=FILE.html|png            samples as decoded, augmented and masked: look at them first
  config recipe=NAME                                      what pretrain would use: every key, and what differs from
                                                          the recipe and from published values
  pretrain [modality=speech|text]                         demo: real data, tiny model, minutes on a CPU
  pretrain data.shards=PATTERN run.dir=DIR [recipe=NAME]  the real thing; the same command resumes
  reshard run=DIR [files=1]                               newest checkpoint -> whole parameters, for any number of ranks
  export run=DIR out=DIR weights=teacher|student          a folder that Hugging Face Transformers loads; of a mixture:
                                                          modality=vision|speech|text
  probe run=DIR                                           k-NN and linear probe of a run's features
  board run=DIR                                           TensorBoard
  test [pytest arguments]                                 the tests
  docs [serve]                                            build the documentation into site/; serve it on this machine

COMMAND --help lists a command's keys. PYTHON=/path/to/python3 chooses the interpreter of .venv.
USAGE
}

say() { printf '%s\n' "$*" >&2; }
fail_with() { say "error: ${*:2}"; exit "$1"; }  # $1: the exit code, then the error
fail() { fail_with 1 "$@"; }

# Print the first interpreter that is new enough.
find_python() {
  local candidate
  for candidate in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11 python3.10 python; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; then
      command -v -- "$candidate"
      return
    fi
    [[ $candidate != "${PYTHON:-}" ]] || fail_with 2 "PYTHON=$PYTHON is no Python 3.10 or newer"
  done
  fail "no Python 3.10 or newer found: install one, or set PYTHON=/path/to/python3"
}

# What an installed environment is made from. $1: its interpreter.
fingerprint() { printf '%s %s' "$("$1" -V 2>&1)" "$(cksum <"$HERE/pyproject.toml")"; }

# Is the environment complete and current? $1: core, or an extra (test, docs). A chosen PYTHON has to be the one it was made with.
ready() {
  [[ ! -e $VENV/installing && -x $VENV/bin/python && -f $VENV/stamp-$1 ]] &&
    [[ $(<"$VENV/stamp-$1") == "$(fingerprint "$VENV/bin/python")" ]] &&
    [[ -z ${PYTHON:-} || $("$PYTHON" -V 2>&1) == "$("$VENV/bin/python" -V 2>&1)" ]]
}

# Print the requirements of pyproject.toml, a line each. $1: core, or the extra to add. Runs in .venv.
requirements() {
  "$VENV/bin/python" - "$HERE/pyproject.toml" "$1" <<'PYTHON'
import sys
try:
    import tomllib
except ImportError:  # Python 3.10
    from pip._vendor import tomli as tomllib
with open(sys.argv[1], "rb") as file:
    project = tomllib.load(file)["project"]
extra = [] if sys.argv[2] == "core" else project["optional-dependencies"][sys.argv[2]]
print("\n".join(project["dependencies"] + extra))
PYTHON
}

# Run a command in the background, its output in the log, and show that it lives. Ends with its exit status.
# Its own process group (-m) lets an interrupt end what pip has started, too.
with_progress() {
  local start=$SECONDS pid
  trap 'for pid in $(jobs -p); do kill -- "-$pid" 2>/dev/null; done; wait; exit 130' INT TERM HUP
  set -m
  "$@" >>"$LOG" 2>&1 </dev/null &
  set +m
  pid=$!
  while kill -0 "$pid" 2>/dev/null; do
    if [[ -t 2 ]]; then
      printf '\r\033[K  %3d s  %.60s' $((SECONDS - start)) "$(grep -aE '^ *(Collecting|Downloading|Installing)' "$LOG" | tail -n 1)" >&2
    fi
    sleep 0.5
  done
  [[ ! -t 2 ]] || printf '\r\033[K' >&2
  trap - INT TERM HUP
  wait "$pid"
}

# Why pip failed, as far as its log tells.
explain() {
  say "the end of $LOG:"
  tail -n 12 "$LOG" | sed 's/^/  | /' >&2
  if grep -qaiE 'No space left' "$LOG"; then
    fail "the disk is full: free some space and run the command again"
  elif grep -qaiE 'name resolution|NewConnectionError|ConnectTimeout|ProxyError|unreachable|Max retries' "$LOG"; then
    fail_with 76 "the package index could not be reached: check the network, or name a mirror in PIP_INDEX_URL; then run the command again"
  fi
  fail "the installation failed: see $LOG; the next call repeats it"
}

# Make every Python of .venv import our packages when it starts: `python -m` looks for `configs` or `models` in the
# caller's folder first. PYTHONSAFEPATH prevents that for all names, but Python 3.10 does not know it. And in a command
# of ours let Ctrl-C end it without a traceback until its own handlers are there: imports take seconds.
claim_names() {
  local folder
  for folder in "$VENV"/lib/python3*/site-packages; do
    printf '%s\n' 'import os, signal; os.environ.pop("DATA2VEC_COMMAND", "") and signal.signal(2, signal.SIG_DFL)' "$HERE" \
      'import configs, data_shards, models, pretrain' >"$folder/data2vec.pth"
  done
}

# Make or refresh .venv. $1: core, or the extra to add. What a killed call left (`installing` marks it), or another Python made, is
# thrown away.
install() {
  local python requirement start=$SECONDS
  local -a wanted=()
  python=$(find_python)
  say "setting up $VENV with $("$python" -V 2>&1) ($1): this happens once, and may download a few hundred MB or more"
  : >"$LOG"
  [[ ! -e $VENV/bin || -e $VENV/installing || -f $VENV/stamp-core ]] ||
    fail "$VENV was not made by this command: move it away (mv .venv other), then run the command again"
  if [[ -e $VENV/installing || ! -f $VENV/stamp-core || $(<"$VENV/stamp-core") != "$("$python" -V 2>&1) "* ]]; then
    mkdir -p "$VENV"
    touch "$VENV/installing"
    rm -rf "$VENV"/bin "$VENV"/lib "$VENV"/lib64 "$VENV"/include "$VENV"/share "$VENV"/pyvenv.cfg "$VENV"/stamp-*
    "$python" -m venv "$VENV" >>"$LOG" 2>&1 ||
      { tail -n 5 "$LOG" >&2; fail "'$python -m venv' failed: on Debian and Ubuntu, apt-get install python3-venv"; }
  fi
  touch "$VENV/installing"
  while IFS= read -r requirement; do wanted+=("$requirement"); done < <(requirements "$1")
  ((${#wanted[@]})) || fail "no requirements could be read from $HERE/pyproject.toml"
  with_progress "$VENV/bin/python" -m pip install --progress-bar off --disable-pip-version-check "${wanted[@]}" || explain
  claim_names
  fingerprint "$VENV/bin/python" >"$VENV/stamp-core"
  [[ $1 == core ]] || cp "$VENV/stamp-core" "$VENV/stamp-$1"
  rm "$VENV/installing"
  say "ready after $((SECONDS - start)) s"
}

# Install where needed; one call at a time, the others wait for it. $1: core, or an extra.
ensure() {
  ! ready "$1" || return 0
  { exec 9>"$HERE/.venv.lock"; } 2>/dev/null || fail_with 2 "$HERE cannot be written, and .venv is made there: copy the project to a folder of yours"
  local python
  python=$(find_python)
  if ! "$python" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)' 2>/dev/null; then
    say "another call is setting up $VENV: waiting for it"
    "$python" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)'
  fi
  ready "$1" || install "$1"
  exec 9>&-
}

# Run a module of the project in the caller's folder, whose own packages must not shadow ours (see claim_names).
module() {
  export PATH="$VENV/bin:$PATH" PYTHONPATH="$HERE${PYTHONPATH:+:$PYTHONPATH}" PYTHONSAFEPATH=1 PYTHONUTF8=1
  [[ $1 != pretrain* && $1 != data_shards ]] || export DATA2VEC_COMMAND=1
  exec "$VENV/bin/python" -m "$@"
}

# Answer a typing error and end with 2. $1: the error, $2: the word, then the words that may have been meant.
mistake() {
  local text=$1 word=$2 near=""
  near=$(python3 -c 'import difflib, sys; print(*difflib.get_close_matches(sys.argv[1], sys.argv[2:], 1, 0.5))' "$word" "${@:3}" 2>/dev/null) || true
  say "error: $text${near:+: did you mean '$near'?}"
  exit 2
}

# Answer, before anything is installed, an argument that is neither key=value nor --help. Keys: those of the usage.
check_arguments() {
  local argument
  for argument; do
    [[ $argument == ?*=* || $argument == -h || $argument == --help ]] ||
      mistake "expected key=value, got '$argument'" "$argument" --help $(usage | grep -oE '[a-z._]+=' | sort -u)
  done
}

# Before an installation, which takes minutes: refuse keys and choices that do not exist. $1: the command; its arguments.
check_keys() {
  local python
  ! ready core || return 0
  python=$(find_python)
  PYTHONPATH=$HERE "$python" -m configs.checks.before_install "$@" || exit
}

# Print the usage for --help, and refuse anything else: `setup` takes no arguments, `docs` only `serve`.
refuse_arguments() {
  case $* in
    -h | --help) usage; exit ;;
  esac
  say "error: unknown arguments '$*': ./run.sh setup; ./run.sh docs builds the pages, ./run.sh docs serve shows them"
  exit 2
}

command=${1:-}
[[ $# -eq 0 ]] || shift
case $command in
  setup)
    [[ $# -eq 0 ]] || refuse_arguments "$@"
    ensure core
    say "$VENV is up to date"
    ;;
  shards)
    [[ $# -eq 0 || " $SHARDS -h --help " == *" $1 "* ]] || mistake "unknown command '$1'" "$1" $SHARDS
    check_arguments "${@:2}"
    check_keys shards "$@"
    ensure core
    module data_shards "$@"
    ;;
  pretrain)
    check_arguments "$@"
    check_keys pretrain "$@"
    ensure core
    module pretrain.launch "$@"
    ;;
  config)
    check_arguments "$@"
    check_keys config "$@"
    ensure core
    module pretrain.describing.configuration "$@"
    ;;
  reshard | export | probe | board)
    check_arguments "$@"
    check_keys "$command" "$@"
    ensure core
    module "pretrain.$command" "$@"
    ;;
  test)
    ensure test
    cd -- "$HERE"
    module pytest "$@"
    ;;
  docs)
    [[ $# -eq 0 || "$*" == serve ]] || refuse_arguments "$@"
    ensure docs
    cd -- "$HERE"
    export NO_MKDOCS_2_WARNING=1  # an advertisement, not about these pages
    [[ $# -eq 0 ]] || module mkdocs serve
    (module mkdocs build --strict)
    say "the pages are in $HERE/site: open $HERE/site/index.html"
    ;;
  help | -h | --help) usage ;;
  "")
    usage >&2
    exit 2
    ;;
  *)
    (mistake "unknown command '$command'" "$command" $COMMANDS) || { say; usage >&2; exit 2; }
    ;;
esac
