# What a build needs of the machine: Go, Debian packages, a cache. Sourced by
# build.sh.
# shellcheck shell=bash
set -euo pipefail

say() {
    printf 'build.sh: %s\n' "$*" >&2
}

# die LINE… ends the script.
die() {
    printf 'build.sh: %s\n' "$1" >&2
    shift
    (($# == 0)) || printf '%s\n' "$@" >&2
    exit 1
}

# cache_dir prints where things are kept that several checkouts can use.
cache_dir() {
    if [[ -n ${AGENTKERNEL_CACHE-} ]]; then
        printf '%s\n' "$AGENTKERNEL_CACHE"
    elif [[ -n ${XDG_CACHE_HOME-} ]]; then
        printf '%s\n' "$XDG_CACHE_HOME/agentkernel"
    else
        printf '%s\n' "${HOME:?is not set: set AGENTKERNEL_CACHE}/.cache/agentkernel"
    fi
}

# ---- Debian packages

# package_version prints the version of an installed package, or fails.
package_version() {
    local status version
    IFS=' ' read -r status version < <(
        dpkg-query -W -f='${db:Status-Status} ${Version}\n' "$1" 2>/dev/null
    ) || return 1
    [[ $status == installed ]] && printf '%s\n' "$version"
}

# as_root prints the word that makes a command run as root.
as_root() {
    ((EUID == 0)) || printf 'sudo '
}

# need_packages installs those of the named packages that are missing.
need_packages() {
    local package missing=()
    for package in "$@"; do
        package_version "$package" >/dev/null || missing+=("$package")
    done
    ((${#missing[@]} > 0)) || return 0
    command -v apt-get >/dev/null ||
        die "this needs Debian 12 packages, and there is no apt-get here. Missing: ${missing[*]}"
    if ((EUID == 0)); then
        say "installing Debian packages: ${missing[*]}"
        apt_install "${missing[@]}"
    elif command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [[ -t 0 && -t 2 ]]; }; then
        say "installing Debian packages, by sudo: ${missing[*]}"
        apt_install "${missing[@]}"
    else
        die "Debian packages are missing. Install them, then try again:" \
            "    sudo apt-get install --no-install-recommends ${missing[*]}"
    fi
}

# apt_install shows apt's output only if it fails. Without package lists, or with
# old ones, the first try fails, and the second has new ones.
apt_install() {
    local log
    log=$(mktemp)
    if ! apt_get "$log" install "$@" && ! { apt_get "$log" update && apt_get "$log" install "$@"; }; then
        tail -n 20 "$log" >&2
        rm -f "$log"
        die "apt-get could not install: $*"
    fi
    rm -f "$log"
}

apt_get() {
    local log=$1 sudo=()
    shift
    ((EUID == 0)) || sudo=(sudo)
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qy --no-install-recommends \
        -o DPkg::Lock::Timeout=600 "$@" >>"$log" 2>&1 </dev/null
}

# refresh_package_lists is for what downloads packages without installing them:
# a new machine has no lists, or old ones that name packages which are gone.
# Without root it does nothing, and what is there has to do.
refresh_package_lists() {
    local log
    command -v apt-get >/dev/null || return 0
    ((EUID == 0)) || { command -v sudo >/dev/null && sudo -n true 2>/dev/null; } || return 0
    log=$(mktemp)
    say "updating Debian's package lists"
    apt_get "$log" update || tail -n 5 "$log" >&2
    rm -f "$log"
}

# find_busybox sets BUSYBOX to the static one of Debian's package: the installed
# one, or one that is unpacked in the cache, which needs no root.
find_busybox() {
    local dir
    BUSYBOX=/bin/busybox
    ! package_version busybox-static >/dev/null || return 0
    dir=$(cache_dir)/busybox-static
    BUSYBOX=$dir/bin/busybox
    [[ ! -x $BUSYBOX ]] || return 0
    if ((EUID == 0)) || ! command -v apt-get >/dev/null; then
        need_packages busybox-static
        BUSYBOX=/bin/busybox
        return
    fi
    say "downloading Debian's busybox-static"
    unpack_package busybox-static "$dir"
}

# unpack_package PACKAGE DIR makes DIR of a downloaded package, whole or not at all.
unpack_package() {
    local package=$1 dir=$2 work
    mkdir -p "${dir%/*}"
    work=$(mktemp -d "$dir.new.XXXXXX")
    if ! (cd "$work" && apt-get -q download "$package" && dpkg -x ./*.deb tree) >"$work/log" 2>&1; then
        tail -n 5 "$work/log" >&2
        rm -rf "$work"
        die "could not download $package; without package lists, update them first:" "    sudo apt-get update"
    fi
    # Another build may have been faster: its result is as good.
    mv -T "$work/tree" "$dir" 2>/dev/null || [[ -d $dir ]] || die "could not make $dir"
    rm -rf "$work"
}

# ---- Go

# need_go makes sure that `go` is one that can build this module: the one on PATH
# or that of /usr/local/go. Go 1.21 and later fetch the release that go.mod asks
# for by themselves.
need_go() {
    local wanted
    [[ -z ${GO_CHECKED-} ]] || return 0
    wanted=$(awk '$1 == "go" {print $2}' "$ROOT/go.mod")
    if ! go_usable "$wanted"; then
        PATH=/usr/local/go/bin:$PATH
        go_usable "$wanted" || go_missing "$wanted"
    fi
    # Without these Go can't fetch modules; minimal installations lack them.
    [[ -e /etc/ssl/certs/ca-certificates.crt || ! -e /etc/debian_version ]] || need_packages ca-certificates
    GO_CHECKED=1
}

go_usable() {
    local found
    found=$(cd / && go env GOVERSION 2>/dev/null) || return
    version_at_least "${found#go}" "$1" ||
        { version_at_least "${found#go}" 1.21 && (cd "$ROOT" && go version) >/dev/null 2>&1; }
}

version_at_least() {
    [[ $(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1) == "$2" ]]
}

go_missing() {
    local found="there is none"
    ! command -v go >/dev/null || found="$(command -v go) is $(cd / && go version 2>/dev/null | cut -d' ' -f3)"
    die "Go $1 or newer is needed, and $found. This installs it in /usr/local/go, where it is found:" \
        "    $(as_root)rm -rf /usr/local/go; wget -qO- https://go.dev/dl/go$1.linux-amd64.tar.gz | $(as_root)tar -C /usr/local -xz"
}
