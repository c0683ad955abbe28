#!/bin/sh
# Sets the checkout up: uv, then .venv from requirements.lock, then Kafka's jars.
#
#   infra/bootstrap.sh        do what is missing; needs no network, and no time, when nothing is
#   infra/bootstrap.sh setup EXTRA…
#                             the same, and install these extras of pyproject.toml, as
#                             requirements-extras.lock names them; they are kept from then on
#   infra/bootstrap.sh lock   resolve requirements.lock and requirements-extras.lock anew from
#                             pyproject.toml
#   infra/bootstrap.sh environment FOLDER REQUIREMENTS PYTHON
#                             build a virtual environment elsewhere, unless it stands already
#   infra/bootstrap.sh uv ARGUMENT…
#                             run uv, in the folder that this is called in
#
# Needs Python 3.11 to 3.13 and nothing else. All it writes itself is .tools, .venv,
# .millstream/cache and FOLDER.
set -eu

called_in=$(pwd)
cd "$(dirname "$0")/.."
checkout=$(pwd)
cache=${MILLSTREAM_CACHE:-$checkout/.millstream/cache}
lock_sha=$(sha256sum requirements.lock | cut -c1-16)
stamp=.venv/.stamp-$lock_sha
# The extras that are installed, one a line, after the digest of the lock that they are of.
extras_file=.venv/.extras
extras_sha=$(sha256sum requirements-extras.lock | cut -c1-16)

say() { printf '%s\n' "$*" >&2; }
fail() {
    say "error: $*"
    exit 1
}

suitable() {
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null
}

find_python() {
    for name in ${PYTHON:-} python3 python3.13 python3.12 python3.11; do
        if command -v "$name" >/dev/null && suitable "$name"; then
            command -v "$name"
            return
        fi
    done
    fail "no Python of 3.11 to 3.13 found (tried python3, python3.13, python3.12, python3.11)." \
        "Install one (Debian, Ubuntu: python3), or name it: make setup PYTHON=/path/to/python"
}

# uv of the pinned version: in a venv of its own; where Debian's Python cannot make one with pip
# in it, in a plain folder; else whatever uv the machine has.
find_uv() {
    for uv in .tools/bin/uv .tools/plain/bin/uv; do
        if [ -e ".tools/.uv-$uv_sha" ] && [ -x "$uv" ]; then
            printf '%s\n' "$checkout/$uv"
            return
        fi
    done
    say "installing uv into .tools"
    rm -rf .tools/bin .tools/lib .tools/lib64 .tools/plain
    if "$python" -m venv .tools >/dev/null 2>&1; then
        .tools/bin/python -m pip --disable-pip-version-check install --require-hashes \
            -r infra/uv-requirements.txt >&2 || fail "pip could not install uv: see above"
        uv=.tools/bin/uv
    elif "$python" -m pip --version >/dev/null 2>&1; then
        "$python" -m pip --disable-pip-version-check install --require-hashes \
            --target .tools/plain -r infra/uv-requirements.txt >&2 ||
            fail "pip could not install uv: see above"
        uv=.tools/plain/bin/uv
    elif command -v uv >/dev/null; then
        command -v uv
        return
    else
        fail "$python has neither venv nor pip." \
            "Install one of them (Debian, Ubuntu: apt install python3-venv), or uv itself"
    fi
    : >".tools/.uv-$uv_sha"
    printf '%s\n' "$checkout/$uv"
}

# The value pip uses for a setting, from its environment or its files.
pip_setting() {
    printf '%s\n' "$pip_config" |
        sed -n "s/^\(global\|install\|:env:\)\.$1='\(.*\)'\$/\2/p" | tail -n 1
}

# uv does not read pip's settings: whoever reaches packages through a mirror set it there.
export_settings() {
    pip_python=$python
    [ ! -x .tools/bin/python ] || pip_python=.tools/bin/python
    pip_config=$("$pip_python" -m pip config list 2>/dev/null || :)
    index=$(pip_setting index-url)
    [ -z "$index" ] || export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$index}"
    more=$(pip_setting extra-index-url)
    [ -z "$more" ] || export UV_INDEX="${UV_INDEX:-$more}"
    certificates=$(pip_setting cert)
    [ -z "$certificates" ] || export SSL_CERT_FILE="${SSL_CERT_FILE:-$certificates}"
    # On the file system of .venv, which is linked to it and so takes no room of its own.
    export UV_CACHE_DIR="${UV_CACHE_DIR:-$cache/uv}"
    export UV_PYTHON_DOWNLOADS=never UV_NO_CONFIG=1
}

prepare_uv() {
    uv_sha=$(sha256sum infra/uv-requirements.txt | cut -c1-16)
    python=$(find_python)
    mkdir -p .tools
    uv=$(find_uv)
    export_settings
}

# The stamp holds the checkout's path: a moved or copied .venv names the old one in its scripts.
ready() {
    [ -e "$stamp" ] && [ "$(cat "$stamp")" = "$checkout" ] && suitable .venv/bin/python && is_linked
}

# With it, .venv's Python imports `millstream` from src/ of this checkout, wherever it is started.
is_linked() {
    for link in .venv/lib/python*/site-packages/millstream.pth; do
        [ -e "$link" ] && [ "$(cat "$link")" = "$checkout/src" ] && return
    done
    return 1
}

link_checkout() {
    for folder in .venv/lib/python*/site-packages; do
        printf '%s\n' "$checkout/src" >"$folder/millstream.pth"
    done
}

# Take turns: `make demo` and `make test` may both find an empty checkout.
take_turn() {
    mkdir -p .tools
    exec 9>.tools/turn
    if command -v flock >/dev/null; then
        flock 9
    fi
}

known_extras() {
    awk '/^\[/ { inside = $0 == "[project.optional-dependencies]" } inside && $2 == "=" { print $1 }' \
        pyproject.toml
}

# pip and uv pass over an extra that a package does not have, and install nothing.
refuse_unknown() {
    for extra in "$@"; do
        known_extras | grep -qxF -e "$extra" ||
            fail "there is no extra $extra; known are:" $(known_extras)
    done
}

kept_extras() {
    [ ! -e "$extras_file" ] || sed 1d "$extras_file"
}

# Extras that pyproject.toml has no more are kept by nobody.
wanted_extras() {
    { [ $# -eq 0 ] || printf '%s\n' "$@"; kept_extras; } | sort -u | while read -r extra; do
        ! known_extras | grep -qxF -e "$extra" || printf '%s\n' "$extra"
    done
}

extras_ready() {
    wanted=$(wanted_extras "$@")
    [ -n "$wanted" ] || return 0
    [ -e "$extras_file" ] && [ "$(cat "$extras_file")" = "$extras_sha
$wanted" ]
}

# What requirements.lock names stays as it is: the constraints hold the same versions.
install_extras() {
    prepare_uv
    wanted=$(wanted_extras "$@")
    say "installing extras:" $wanted
    "$uv" pip install --python .venv/bin/python --compile-bytecode --require-hashes \
        --constraints requirements-extras.lock --requirements pyproject.toml \
        $(printf -- '--extra %s ' $wanted)
    printf '%s\n' "$extras_sha" $wanted >"$extras_file"
}

build_venv() {
    prepare_uv
    kept=$(kept_extras)
    rm -f .venv/.stamp-*
    say "building .venv with $("$python" --version)"
    "$uv" venv --quiet --clear --python "$python" .venv
    "$uv" pip sync --python .venv/bin/python --compile-bytecode --require-hashes requirements.lock
    link_checkout
    # Under no digest, so that they are installed again.
    [ -z "$kept" ] || printf '%s\n' - $kept >"$extras_file"
    printf '%s\n' "$checkout" >"$stamp"
}

build_environment() {
    stamp=$1/.stamp-$(sha256sum "$2" | cut -c1-16)
    [ ! -e "$stamp" ] || return 0
    prepare_uv
    say "building $1 with $("$3" --version)"
    "$uv" venv --quiet --clear --python "$3" "$1"
    "$uv" pip sync --python "$1/bin/python" --compile-bytecode --require-hashes "$2"
    : >"$stamp"
}

case ${1:-setup} in
setup)
    [ $# -eq 0 ] || shift
    # Named with blanks or commas between them.
    set -f
    set -- $(printf '%s ' "$@" | tr ',' ' ')
    set +f
    refuse_unknown "$@"
    if ! ready || ! extras_ready "$@"; then
        take_turn
        ready || build_venv
        extras_ready "$@" || install_extras "$@"
        exec 9>&-
    fi
    exec .venv/bin/python -m millstream.infra fetch
    ;;
environment)
    [ $# -eq 4 ] || fail "usage: $0 environment FOLDER REQUIREMENTS PYTHON"
    build_environment "$2" "$3" "$4"
    ;;
lock)
    prepare_uv
    # The overrides that pyproject.toml has for uv are of its configuration.
    env -u UV_NO_CONFIG "$uv" pip compile pyproject.toml --extra local --group dev --universal --generate-hashes \
        -o requirements.lock
    # With all that it names held where it is.
    env -u UV_NO_CONFIG "$uv" pip compile pyproject.toml $(known_extras | sed 's/^/--extra /') \
        --constraints requirements.lock --universal --generate-hashes -o requirements-extras.lock
    # What tests/e2e/test_wheel.py installs, with the newest of openai-agents and what it needs.
    env -u UV_NO_CONFIG "$uv" pip compile pyproject.toml --extra local tests/e2e/openai-agents.in \
        --universal --generate-hashes --no-annotate -o tests/e2e/openai-agents.txt
    ;;
uv)
    shift
    prepare_uv
    cd "$called_in"
    exec "$uv" "$@"
    ;;
*)
    fail "usage: $0 [setup [EXTRA…]|lock|environment FOLDER REQUIREMENTS PYTHON|uv ARGUMENT…]"
    ;;
esac
