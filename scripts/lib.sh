# Shared by the scripts beside it; sourced, never run.
# shellcheck shell=bash
shopt -s inherit_errexit # or a command substitution that fails would go on with half a result

PROJECT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
CACHE=${DRKIT_CACHE_DIR:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/drkit}

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

die() {
  say "$*"
  exit 1
}

need_root() {
  [[ $EUID -eq 0 ]] || die "must run as root: try it with sudo."
}

# short_hash TEXT: 8 hexadecimal digits, the same for the same text.
short_hash() { printf '%s' "$1" | sha256sum | cut -c1-8; }

# The package lists are fetched once per script run, and only if something is to be installed.
apt_lists_fresh=
apt_update() {
  [[ -z $apt_lists_fresh ]] || return 0
  command -v apt-get >/dev/null || return 1
  apt-get -qq update >&2 || say "apt-get update failed; going on with the package lists of an earlier one."
  apt_lists_fresh=yes
}

# apt_install REASON PACKAGE...: installs the packages that are missing, or says which ones the user has to install.
apt_install() {
  local reason=$1 package missing=()
  shift
  for package in "$@"; do
    dpkg-query -W -f '${Status}\n' "$package" 2>/dev/null | grep -q 'ok installed$' || missing+=("$package")
  done
  [[ ${#missing[@]} -gt 0 ]] || return 0
  command -v apt-get >/dev/null || die "no apt-get here: please install ${missing[*]} ($reason) and run this again."
  need_root
  say "installing ${missing[*]} ($reason)."
  apt_update
  without_starting_services \
    env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${missing[@]}" >"$(apt_log)" 2>&1 ||
    { tail -n 20 "$(apt_log)" >&2; die "apt-get could not install ${missing[*]}; its output is in $(apt_log)."; }
}

apt_log() {
  mkdir -p "$CACHE"
  printf '%s' "$CACHE/apt.log"
}

# Debian's packages start their services when they are installed. These scripts want the programs, not a daemon.
without_starting_services() (
  local policy=/usr/sbin/policy-rc.d
  if [[ -e $policy ]]; then
    "$@"
  else
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 0755 "$policy"
    "$@"
  fi
)

# find_python: prints the first Python that is new enough; installs one with apt if there is none.
find_python() {
  local python
  for python in python3 python3.14 python3.13 python3.12 python3.11; do
    if new_enough "$python"; then
      printf '%s' "$python"
      return
    fi
  done
  apt_install "drkit needs Python 3.11 or newer" python3 python3-venv
  new_enough python3 || die "needs Python 3.11 or newer, and this system's is older: install one as python3.11."
  printf 'python3'
}

# Without ensurepip, which Debian packages separately, Python cannot create a virtual environment.
new_enough() { "$1" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

# make_venv DIRECTORY REQUIREMENT [PIP OPTION...]: creates a virtual environment with the project in it. Does nothing if
# it exists and the project's dependencies have not changed since.
make_venv() {
  local venv=$1 requirement=$2 python stamp
  shift 2
  python=$(find_python)
  stamp=$({ "$python" -VV && printf '%s\n' "$PROJECT" "$requirement" "$@" && cat "$PROJECT/pyproject.toml"; } | sha256sum)
  [[ -x $venv/bin/python && $(cat "$venv/.stamp" 2>/dev/null) == "$stamp" ]] && return 0
  say "creating a virtual environment in $venv."
  rm -rf "$venv"
  "$python" -m venv "$venv"
  "$venv/bin/python" -m pip install -qq --disable-pip-version-check "$@" "$requirement" >&2 ||
    die "pip could not install $requirement."
  printf '%s' "$stamp" >"$venv/.stamp"
}

# ensure_dev_python: sets PYTHON to an interpreter that has drkit and the tools for its tests.
ensure_dev_python() {
  [[ -z ${PYTHON:-} ]] || return 0
  make_venv "$PROJECT/.cache/venv" "${PROJECT}[dev]" --editable
  PYTHON=$PROJECT/.cache/venv/bin/python
  export PYTHON
}
