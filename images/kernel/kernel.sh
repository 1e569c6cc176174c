# The guest kernel: Debian's source package, an allnoconfig, and the fragment
# kernel.config. Sourced by build.sh, whose say, die, need_packages and cache_dir
# it uses.
# shellcheck shell=bash
set -euo pipefail

KERNEL_PACKAGE=linux-source-6.1
KERNEL_SOURCE=/usr/src/$KERNEL_PACKAGE.tar.xz
# What the build runs, beside make and gcc.
KERNEL_NEEDS=("$KERNEL_PACKAGE" bc bison flex gcc libc6-dev libelf-dev make)
KERNEL_FRAGMENT=$ROOT/images/kernel/kernel.config
# Everything but the fragment that decides about the result. A change here or in
# the fragment (but for its comments) makes another kernel.
KERNEL_RECIPE=(
    KBUILD_BUILD_TIMESTAMP=@0
    KBUILD_BUILD_USER=agentkernel
    KBUILD_BUILD_HOST=agentkernel
    KBUILD_BUILD_VERSION=1
)
KERNEL_STRIP=(strip --strip-all) # keeps .notes with the PVH entry point: it is loaded
KERNEL_OBJECTS=1190              # how many there are, about: for the progress line

# kernel_lines prints the fragment without comments; "# CONFIG_X is not set" is none.
kernel_lines() {
    grep -E '^(CONFIG_|# CONFIG_[A-Z0-9_]+ is not set$)' "$KERNEL_FRAGMENT"
}

kernel_hash() {
    { kernel_lines && printf '%s\n' "${KERNEL_RECIPE[@]}" "${KERNEL_STRIP[@]}"; } | sha256sum | cut -c1-16
}

# kernel_cached prints the path of a kernel that was built before: of the
# installed source package's version, or of the newest one that is there if the
# package is not installed (a cache that came from elsewhere).
kernel_cached() {
    local hash version path
    hash=$(kernel_hash)
    if version=$(package_version "$KERNEL_PACKAGE"); then
        path=$(cache_dir)/kernel/$version-$hash/vmlinux
    else
        path=$(find "$(cache_dir)/kernel" -path "*-$hash/vmlinux" 2>/dev/null | sort -V | tail -n 1)
    fi
    [[ -n $path && -f $path ]] && printf '%s\n' "$path"
}

# kernel_ensure builds the kernel if the cache has none, and sets KERNEL_IMAGE.
# shellcheck disable=SC2034 # build.sh reads it
kernel_ensure() {
    local version dir
    if KERNEL_IMAGE=$(kernel_cached); then
        return
    fi
    need_packages "${KERNEL_NEEDS[@]}"
    version=$(package_version "$KERNEL_PACKAGE")
    dir=$(cache_dir)/kernel/$version-$(kernel_hash)
    KERNEL_IMAGE=$dir/vmlinux
    mkdir -p "${dir%/*}"
    # In a subshell, so that its traps and its lock end with it.
    (kernel_build_locked "$dir" "$version")
}

# kernel_build_locked makes DIR, whole or not at all. Of two builds of the same
# kernel one waits for the other.
kernel_build_locked() {
    local dir=$1 version=$2 work
    exec 9>"$dir.lock"
    if ! flock -n 9; then
        say "waiting for another build of the guest kernel"
        flock 9
    fi
    [[ ! -f $dir/vmlinux ]] || return 0
    rm -rf "$dir".new.* # a build that was killed
    work=$(mktemp -d "$dir.new.XXXXXX")
    # shellcheck disable=SC2064 # $work is local: expand it now
    trap "kernel_cleanup '$work'" EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    say "building the guest kernel $version; it is kept in ${dir%/*}"
    SECONDS=0
    kernel_make "$work" "$dir.log"
    mkdir "$work/result"
    "${KERNEL_STRIP[@]}" -o "$work/result/vmlinux" "$work"/linux-source-*/vmlinux
    cp "$work"/linux-source-*/.config "$work/result/config"
    touch "$work/result/vmlinux"
    rm -rf "$dir" "$dir.log"
    mv -T "$work/result" "$dir"
}

kernel_cleanup() {
    [[ -z ${KERNEL_JOB-} ]] || kill "$KERNEL_JOB" 2>/dev/null || true
    wait || true
    rm -rf "$1"
}

# kernel_make unpacks, configures and compiles in WORK.
kernel_make() {
    local work=$1 log=$2
    : >"$log"
    kernel_watch "$log" "unpacking" tar -C "$work" -xJf "$KERNEL_SOURCE" \
        --exclude='*.dts' --exclude='*.dtsi' --exclude='*.rst' --exclude='*/drivers/gpu/drm/*.[ch]' \
        --exclude='*/tools/testing/*' --exclude='*/tools/perf/*'
    cd "$work"/linux-source-*
    kernel_configure "$log"
    kernel_watch "$log" "compiling" make -j"$(nproc)" "${KERNEL_RECIPE[@]}" vmlinux
}

# kernel_configure fails if a line of the fragment does not end up in the
# configuration: it is misspelt, or what it depends on is off.
kernel_configure() {
    local log=$1 line name missing=()
    KCONFIG_ALLCONFIG=$KERNEL_FRAGMENT make allnoconfig >>"$log" 2>&1 || kernel_failed "$log"
    while IFS= read -r line; do
        case $line in
        '#'*)
            name=${line#'# '}
            ! grep -q "^${name%% *}=" .config || missing+=("$line")
            ;;
        *)
            grep -qxF "$line" .config || missing+=("$line")
            ;;
        esac
    done < <(kernel_lines)
    ((${#missing[@]} == 0)) || die "the kernel does not take these lines of ${KERNEL_FRAGMENT#"$ROOT"/}:" "${missing[@]/#/    }"
}

# kernel_watch runs a command with its output in LOG and shows how far it is: in
# one line on a terminal, else in a line every 15 seconds.
kernel_watch() {
    local log=$1 what=$2 status=0 every=15
    shift 2
    [[ ! -t 2 ]] || every=1
    "$@" >>"$log" 2>&1 9>&- &
    KERNEL_JOB=$!
    local next=$((SECONDS + every))
    while kill -0 "$KERNEL_JOB" 2>/dev/null; do
        sleep 0.5
        kill -0 $$ 2>/dev/null || exit 143 # build.sh itself was killed
        if ((SECONDS >= next)); then
            next=$((SECONDS + every))
            kernel_progress "$log" "$what"
        fi
    done
    wait "$KERNEL_JOB" || status=$?
    KERNEL_JOB=
    ((status == 0)) || kernel_failed "$log"
    kernel_progress "$log" "$what"
    [[ ! -t 2 ]] || printf '\n' >&2
}

kernel_progress() {
    local count line
    count=$(grep -cE '^  (CC|AS) ' "$1" || true)
    line=$(printf 'guest kernel: %s, %d:%02d' "$2" $((SECONDS / 60)) $((SECONDS % 60)))
    ((count == 0)) || line+=", $count of about $KERNEL_OBJECTS objects"
    if [[ -t 2 ]]; then
        printf '\r\033[K%s' "$line" >&2
    else
        say "$line"
    fi
}

kernel_failed() {
    [[ ! -t 2 ]] || printf '\n' >&2
    tail -n 25 "$1" >&2
    die "the guest kernel could not be built; the whole log is $1"
}
