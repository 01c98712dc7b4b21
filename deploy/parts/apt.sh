# Debian packages without root: apt with folders of its own, signatures checked by apt as always.
# Sourced by deploy/setup, which defines cache, say and fail.

apt_home="$cache/apt"
debian_ring=/usr/share/keyrings/debian-archive-keyring

# os_release KEY: one value of /etc/os-release
os_release() {
    [ ! -r /etc/os-release ] || (. /etc/os-release && eval "printf '%s' \"\${$1:-}\"")
}

# apt_prepare [MIRROR KEYRING SUITE...]: writes a configuration for apt_run. Without arguments the
# sources are the machine's own. Of the machine's settings only Acquire (proxies, certificates,
# retries) is taken over: its hooks and pins are not meant for a private download. There is no lock
# of apt's, which would be beside the system's; deploy/setup holds one of its own.
apt_prepare() {
    mkdir -p "$apt_home/state/lists/partial" "$apt_home/cache/archives/partial" \
        "$apt_home/empty.d" "$apt_home/sources.d"
    : >"$apt_home/empty"
    rm -f "$apt_home"/sources.d/*
    {
        LC_ALL=C apt-config dump | grep '^Acquire::' | grep -v '^Acquire::IndexTargets' || true
        cat <<CONF
Dir::State "$apt_home/state";
Dir::State::lists "$apt_home/state/lists";
Dir::State::status "/dev/null";
Debug::NoLocking "true";
Dir::Cache "$apt_home/cache";
Dir::Etc::main "$apt_home/empty";
Dir::Etc::parts "$apt_home/empty.d";
Dir::Etc::preferences "$apt_home/empty";
Dir::Etc::preferencesparts "$apt_home/empty.d";
APT::Sandbox::User "$(id -un)";
APT::Install-Recommends "false";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::http::Timeout "60";
Acquire::https::Timeout "60";
CONF
        if [ $# -gt 0 ]; then
            printf 'Dir::Etc::sourcelist "%s";\n' "$apt_home/empty"
            printf 'Dir::Etc::sourceparts "%s";\n' "$apt_home/sources.d"
            printf 'APT::Update::Error-Mode "any";\n'
        fi
    } >"$apt_home/apt.conf"
    [ $# -gt 0 ] || return 0
    mirror=$1
    keyring=$2
    shift 2
    printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main\nSigned-By: %s\n' \
        "$mirror" "$*" "$keyring" >"$apt_home/sources.d/fedpeg.sources"
}

# apt_run ARGUMENT...: apt-get with that configuration; what it said is shown when it fails.
apt_run() {
    if ! APT_CONFIG="$apt_home/apt.conf" LC_ALL=C apt-get -q -y "$@" >"$apt_home/log" 2>&1; then
        sed 's/^/    /' "$apt_home/log" >&2
        return 1
    fi
}

# unpack_archives FOLDER: unpacks what apt downloaded and removes the archives
unpack_archives() {
    mkdir -p "$1"
    for archive in "$apt_home"/cache/archives/*.deb; do
        dpkg-deb -x "$archive" "$1" || return 1
    done
    rm -f "$apt_home"/cache/archives/*.deb
}

# fetch_own FOLDER PACKAGE...: packages alone, without what they depend on, from the sources that
# this machine (Debian, Ubuntu, ...) is set up with.
fetch_own() {
    folder=$1
    shift
    command -v apt-get >/dev/null 2>&1 || return 1
    if [ -n "${FEDPEG_DEBIAN_MIRROR:-}" ] && [ "$(os_release ID)" = debian ]; then
        apt_prepare "${FEDPEG_DEBIAN_MIRROR%/}" "$debian_ring.gpg" "$(os_release VERSION_CODENAME)"
    else
        apt_prepare
    fi
    apt_run update || say "apt could not refresh every package list; going on with what it has"
    rm -f "$apt_home"/cache/archives/*.deb
    (cd "$apt_home/cache/archives" && apt_run download "$@") || return 1
    unpack_archives "$folder"
}

# Addresses of the Debian mirrors this machine's apt is set up with, likely ones first, one a line.
debian_mirrors() {
    if [ -n "${FEDPEG_DEBIAN_MIRROR:-}" ]; then
        printf '%s\n' "${FEDPEG_DEBIAN_MIRROR%/}"
        return
    fi
    [ "$(os_release ID)" = debian ] || return 0
    LC_ALL=C apt-get indextargets --no-release-info \
        --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
        awk '$2 == "main" && $1 !~ /security/ { sub(/\/+$/, "", $3); if (!seen[$3]++) print $3 }' |
        awk '/debian$/ { print; next } { rest = rest $0 "\n" } END { printf "%s", rest }'
}

# debian_keyring [new]: path of a keyring with Debian's archive keys. It is fetched where none is
# installed (Ubuntu), and with "new" also where the installed one is too old for the suite.
debian_keyring() {
    if [ "${1:-}" = new ] || { [ ! -r "$debian_ring.gpg" ] && [ ! -r "$debian_ring.pgp" ]; }; then
        fetch_own "$cache/keyring" debian-archive-keyring || return 1
        set -- "$cache/keyring$debian_ring"
    else
        set -- "$debian_ring"
    fi
    for ring in "$1.gpg" "$1.pgp"; do
        if [ -r "$ring" ]; then
            printf '%s\n' "$ring"
            return 0
        fi
    done
    return 1
}
