# A real bitcoind: $BITCOIND, or the one on PATH, or Debian's bitcoin-knots unpacked in the user's
# cache and started through its own dynamic loader, so that it also runs on older systems.
# Sourced by deploy/setup after apt.sh. federation/bitcoind_process.py looks in the same places.

bitcoind_suite=trixie
bitcoind_package=bitcoin-knots
bitcoind_major_min=28
bitcoind_cached="$cache/bitcoind/bin/bitcoind"

# bitcoind_major PROGRAM: its major version, nothing when it does not run
bitcoind_major() {
    "$1" -version 2>/dev/null | sed -n '1s/.*version v\{0,1\}\([0-9]*\)\..*/\1/p'
}

# recent_enough PROGRAM
recent_enough() {
    major=$(bitcoind_major "$1")
    [ -n "$major" ] && [ "$major" -ge "$bitcoind_major_min" ]
}

bitcoind_is_ready() {
    if [ -n "${BITCOIND:-}" ]; then
        recent_enough "$BITCOIND"
        return
    fi
    [ -x "$bitcoind_cached" ] && return 0
    on_path=$(command -v bitcoind) && recent_enough "$on_path"
}

prepare_bitcoind() {
    advice="set BITCOIND to a bitcoind of version $bitcoind_major_min or newer"
    [ -z "${BITCOIND:-}" ] ||
        fail "BITCOIND=$BITCOIND is no bitcoind of version $bitcoind_major_min or newer that runs here"
    for tool in apt-get apt-config dpkg-deb; do
        command -v "$tool" >/dev/null 2>&1 || fail "no bitcoind here, and no $tool to fetch one: $advice"
    done
    mirrors=$(debian_mirrors)
    [ -n "$mirrors" ] ||
        fail "no bitcoind here, and no Debian mirror is known: $advice, or FEDPEG_DEBIAN_MIRROR to a mirror"
    say "fetching bitcoind (Debian's $bitcoind_package with its libraries, 36 MB, once for this user)"
    keyring=$(debian_keyring) || fail "Debian's archive keyring cannot be had: $advice"
    for mirror in $mirrors; do
        if fetch_bitcoind "$mirror" "$keyring"; then
            return 0
        fi
        # keys of a newer release may be missing in an older machine's keyring
        if grep -q -e NO_PUBKEY -e 'not signed' -e 'Missing key' "$apt_home/log" 2>/dev/null &&
            keyring=$(debian_keyring new) && fetch_bitcoind "$mirror" "$keyring"; then
            return 0
        fi
    done
    fail "bitcoind could not be fetched (see above); nothing was installed. Try again, or $advice"
}

# fetch_bitcoind MIRROR KEYRING
fetch_bitcoind() {
    apt_prepare "$1" "$2" "$bitcoind_suite" "$bitcoind_suite-backports"
    rm -rf "$apt_home/state/lists" "$apt_home"/cache/archives/*.deb
    mkdir -p "$apt_home/state/lists/partial"
    apt_run update || return 1
    apt_run --download-only install "$bitcoind_package/$bitcoind_suite-backports" || return 1
    fresh="$cache/bitcoind.new"
    rm -rf "$fresh"
    unpack_archives "$fresh/root" || return 1
    write_launchers "$fresh" "$cache/bitcoind" || return 1
    rm -rf "$apt_home/state/lists" "$cache/bitcoind.old"
    [ ! -e "$cache/bitcoind" ] || mv "$cache/bitcoind" "$cache/bitcoind.old"
    mv "$fresh" "$cache/bitcoind"
    rm -rf "$cache/bitcoind.old"
    if ! recent_enough "$bitcoind_cached"; then
        "$bitcoind_cached" -version >&2 || true
        rm -rf "$cache/bitcoind"
        return 1
    fi
    say "bitcoind is in $cache/bitcoind: $("$bitcoind_cached" -version | head -n 1)"
}

# write_launchers FOLDER FINAL: small scripts in FOLDER/bin that work once FOLDER is at FINAL
write_launchers() {
    loader=$(cd "$1/root" && find . -type f -name 'ld-linux*.so*' | head -n 1)
    libc=$(cd "$1/root" && find . -name 'libc.so.6' | head -n 1)
    if [ -z "$loader" ] || [ -z "$libc" ]; then
        say "the unpacked packages hold no dynamic loader"
        return 1
    fi
    quoted=$(printf '%s' "$2/root" | sed "s/'/'\\\\''/g")
    mkdir -p "$1/bin"
    for program in bitcoind bitcoin-cli; do
        cat >"$1/bin/$program" <<LAUNCHER
#!/bin/sh
root='$quoted'
unset LD_PRELOAD LD_LIBRARY_PATH
exec "\$root/${loader#./}" --library-path "\$root/$(dirname "${libc#./}")" "\$root/usr/bin/$program" "\$@"
LAUNCHER
        chmod 755 "$1/bin/$program"
    done
}
