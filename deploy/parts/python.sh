# The virtual environment: the locked versions, checked by hash, and the command fedpeg.
# Sourced by deploy/setup after apt.sh.

# The Pythons for which the locked plyvel has a wheel; others need one of the ways of bring_plyvel.
plyvel_wheels="3.11 3.12"

# What the environment was made from; a change of any of it makes the environment anew.
python_key() {
    { printf '%s\n' "$clone" && cat "$clone/requirements.lock" "$here/parts/python.sh"; } | cksum
}

python_is_ready() {
    [ -x "$venv/bin/python" ] && [ -x "$venv/bin/fedpeg" ] && [ -r "$stamp" ] &&
        [ "$(cat "$stamp")" = "$(python_key)" ]
}

prepare_python() {
    if venv_is_usable; then
        say "updating the virtual environment"
        rm -f "$stamp"
    else
        python=$(choose_python)
        [ -n "$python" ] || fail "${FEDPEG_PYTHON:-python3} is not CPython 3.11 or newer, and no other is here: \
install one, or name it in FEDPEG_PYTHON"
        say "making a virtual environment with $("$python" -V) ($python)"
        make_venv "$python"
    fi
    : >"$unfinished"
    say "installing the locked packages (less than a minute)"
    locked="$clone/requirements.lock"
    if needs_plyvel; then
        bring_plyvel
    fi
    if ! "$venv/bin/python" -m pip install -q --no-input --disable-pip-version-check --no-deps \
        --prefer-binary --require-hashes -r "$locked" >"$cache/pip.log" 2>&1; then
        tail -n 15 "$cache/pip.log" | sed 's/^/    /' >&2
        fail "the locked packages could not be installed (see above); nothing counts as installed, run it again"
    fi
    write_command
    rm -f "$unfinished"
    python_key >"$stamp.new"
    mv "$stamp.new" "$stamp"
}

# An environment that was made for this path, and whose last installation was not cut short.
venv_is_usable() {
    [ ! -e "$unfinished" ] && [ -x "$venv/bin/python" ] &&
        grep -q -s -F "$venv/bin/python" "$venv/bin/pip" "$venv/bin/fedpeg" &&
        "$venv/bin/python" -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

# Prints the path of the best Python: the first that takes plyvel's wheel, else the first that runs.
choose_python() {
    pyenv="${PYENV_ROOT:-${HOME:-/nonexistent}/.pyenv}/versions"
    second=
    for candidate in ${FEDPEG_PYTHON:-python3 python3.12 python3.11 "$pyenv"/3.12.*/bin/python3 \
        "$pyenv"/3.11.*/bin/python3 python3.13 python3.14 "$pyenv"/3.1[3-9].*/bin/python3}; do
        path=$(command -v "$candidate" 2>/dev/null) || continue
        kind=$(PLYVEL_WHEELS="$plyvel_wheels" "$path" -c '
import os, platform, ssl, sys, venv
version = "%d.%d" % sys.version_info[:2]
fits = version in os.environ["PLYVEL_WHEELS"].split() and platform.machine() == "x86_64"
if sys.version_info >= (3, 11) and sys.implementation.name == "cpython":
    print("wheel" if fits and platform.libc_ver()[0] == "glibc" else "other")' 2>/dev/null) || continue
        if [ "$kind" = wheel ]; then
            printf '%s\n' "$path"
            return
        fi
        [ -n "$second" ] || [ -z "$kind" ] || second=$path
    done
    printf '%s' "$second"
}

# make_venv PYTHON: an empty environment with pip. Debian's python3 alone has no ensurepip; there
# pip comes as a wheel out of Debian's package python3-pip-whl.
make_venv() {
    rm -rf "$venv"
    mkdir -p "$venv"
    : >"$unfinished"
    if "$1" -c 'import ensurepip' 2>/dev/null &&
        "$1" -m venv "$venv" >"$cache/venv.log" 2>&1; then
        return 0
    fi
    "$1" -m venv --without-pip "$venv" ||
        fail "$1 cannot make virtual environments: install Debian's python3-venv, or name another in FEDPEG_PYTHON"
    if "$1" -m pip --version >/dev/null 2>&1 &&
        "$1" -m pip --python "$venv/bin/python" install -q --disable-pip-version-check pip; then
        return 0
    fi
    say "this Python has no pip: fetching Debian's"
    fetch_own "$cache/pip" python3-pip-whl ca-certificates ||
        fail "pip could not be fetched: install Debian's python3-venv and run this again"
    wheel=$(find "$cache/pip/usr/share/python-wheels" -name 'pip-*.whl' | head -n 1)
    site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
    "$venv/bin/python" -m zipfile -e "$wheel" "$site" || fail "pip could not be unpacked from $wheel"
    give_certificates
}

# Debian's pip trusts the system's file of certificates only, and a fresh system may have none.
give_certificates() {
    system=/etc/ssl/certs/ca-certificates.crt
    [ ! -e "$system" ] || return 0
    find "$cache/pip/usr/share/ca-certificates" -name '*.crt' -exec cat {} + >"$venv/ca-certificates.crt"
    "$venv/bin/python" - "$site/pip/_vendor/certifi/core.py" "$system" "$venv/ca-certificates.crt" <<'PYTHON'
import pathlib, sys
core, system, own = sys.argv[1:]
text = pathlib.Path(core).read_text()
pathlib.Path(core).write_text(text.replace(repr(system), repr(own)).replace(f'"{system}"', repr(own)))
PYTHON
}

# Whether plyvel is to be had in another way than by its wheel.
needs_plyvel() {
    "$venv/bin/python" -c 'import plyvel' 2>/dev/null && return 1
    version=$("$venv/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    case " $plyvel_wheels " in *" $version "*) [ "$(uname -m)" != x86_64 ] ;; esac
}

# Without a wheel: pip builds plyvel where LevelDB's headers and a compiler are; else Debian's own
# build of it is taken, if it is one for this Python.
bring_plyvel() {
    include=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')
    if [ -e /usr/include/leveldb/db.h ] && [ -e "$include/Python.h" ] && command -v c++ >/dev/null; then
        say "building plyvel against LevelDB's headers"
        return 0
    fi
    say "plyvel has no wheel for this Python: fetching Debian's build"
    rm -rf "$cache/plyvel"
    if fetch_own "$cache/plyvel" python3-plyvel libleveldb1d libsnappy1v5 && install_debian_plyvel; then
        awk '/^[a-z]/ { keep = !/^plyvel==/ } keep' "$clone/requirements.lock" >"$cache/locked.txt"
        locked="$cache/locked.txt"
        return 0
    fi
    fail "plyvel has no wheel for this Python: install libleveldb-dev, g++ and python3-dev, or a Python \
$(printf '%s' "$plyvel_wheels" | sed 's/ / or /g')"
}

# The extension finds its libraries because they are loaded before it, under the names it asks for.
install_debian_plyvel() {
    site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
    suffix=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')
    package=$(find "$cache/plyvel/usr/lib/python3" -type d -name plyvel | head -n 1)
    [ -e "$package/_plyvel$suffix" ] || return 1
    rm -rf "$site/plyvel" "$site/plyvel_libs"
    mkdir "$site/plyvel_libs"
    find "$cache/plyvel/usr/lib" -name 'lib*.so.*' -exec cp -L {} "$site/plyvel_libs/" \;
    cp -R "$package" "$site/plyvel"
    mv "$site/plyvel/__init__.py" "$site/plyvel/_debian_init.py"
    cat >"$site/plyvel/__init__.py" <<'LOADER'
"""Debian's plyvel; loads the libraries beside it first."""
import ctypes
import pathlib

for _name in ("libsnappy.so.1", "libleveldb.so.1d"):
    ctypes.CDLL(str(pathlib.Path(__file__).parent.parent / "plyvel_libs" / _name))

from plyvel._debian_init import *  # noqa: E402, F403
from plyvel._debian_init import __version__  # noqa: E402, F401
LOADER
    "$venv/bin/python" -c 'import plyvel; plyvel.DB' 2>>"$apt_home/log"
}

# The packages are imported from the clone; nothing is built or fetched for the project itself.
write_command() {
    "$venv/bin/python" - "$clone" <<'PYTHON'
import os, pathlib, shlex, sys, sysconfig
clone = sys.argv[1]
site = pathlib.Path(sysconfig.get_paths()["purelib"])
(site / "fedpeg-clone.pth").write_text(clone + "\n")
for name, module in (("fedpeg", "federation.entry"), ("sidechaind", "sidechain.daemon")):
    command = pathlib.Path(sys.prefix) / "bin" / name
    fresh = command.with_name(f"{name}.new")
    fresh.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.prefix)}/bin/python -m {module} "$@"\n')
    fresh.chmod(0o755)
    os.replace(fresh, command)
PYTHON
}
