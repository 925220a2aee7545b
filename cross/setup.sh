#!/usr/bin/env bash
# cross/setup.sh [TARGET...]
#
# ARM cross toolchain and QEMU on Debian 12 (amd64), from Debian's packages
# alone: for hosts where `rustup target add` cannot download. Run as root with
# the targets that are wanted (all known ones without an argument); run it again
# at will: what is in place is kept, and then only the summary prints. Where
# rustup can download, `rustup target add` and Debian's linkers and QEMU do.
#
#   cross/setup.sh thumbv7m-none-eabi            # cross/bare and cross/firmware
#   cross/setup.sh aarch64-unknown-linux-musl    # an agent for an ARM host
#
# The Rust toolchain is unpacked into PREFIX, not installed, so the system's
# own cargo and rustc are untouched; where rustup exists it is linked as
# `debian-cross`: cargo +debian-cross build --target aarch64-unknown-linux-gnu
#
# A target's std comes from Debian's package of that architecture if the mirror
# offers the same version, else it is compiled from Debian's rust-web-src.
#
# Environment:
#   CROSS_PREFIX          where it goes          (/opt/debian-cross)
#   CROSS_TOOLCHAIN       rustup's name for it   (debian-cross)
#   CROSS_RUST_MIN        oldest Rust accepted   (1.95)
#   CROSS_JOBS            parallel compilations  (2)
#   CROSS_REFRESH=1       throw PREFIX away and start again
#   CROSS_ALLOW_UPGRADES=1  let apt upgrade installed packages (never remove)
#
# Exit: 0 all there, 1 failed, 2 wrong host or usage, 3 some targets or tools
# are missing (named on standard error), the others work.
set -euo pipefail
umask 022
export LC_ALL=C DEBIAN_FRONTEND=noninteractive

RECIPE=1 # raise when the way a target is made changes: all are made anew
PREFIX=${CROSS_PREFIX:-/opt/debian-cross}
TOOLCHAIN=${CROSS_TOOLCHAIN:-debian-cross}
RUST_MIN=${CROSS_RUST_MIN:-1.95}
JOBS=${CROSS_JOBS:-2}
ROOT=$PREFIX/usr STATE=$PREFIX/state RUSTLIB=$PREFIX/usr/lib/rustlib
KNOWN="aarch64-unknown-linux-gnu armv7-unknown-linux-gnueabihf
aarch64-unknown-linux-musl armv7-unknown-linux-musleabihf x86_64-unknown-linux-musl
thumbv6m-none-eabi thumbv7m-none-eabi thumbv7em-none-eabihf"
MISSING=()

say() { printf 'cross-setup: %s\n' "$*"; }
warn() { printf 'cross-setup: warning: %s\n' "$*" >&2; }
lack() { printf 'cross-setup: MISSING: %s (%s)\n' "$1" "$2" >&2; MISSING+=("$1"); }
die() { local rc=$1; shift; printf 'cross-setup: error: %s\n' "$*" >&2; exit "$rc"; }
have() { command -v "$1" >/dev/null 2>&1; }

# --- what a target needs -----------------------------------------------------
gcc_of() { case $1 in aarch64-*linux*) echo aarch64-linux-gnu-gcc ;; armv7-*linux*) echo arm-linux-gnueabihf-gcc ;;
    x86_64-*linux*) echo x86_64-linux-gnu-gcc ;; esac; }
deb_std_of() { case $1 in aarch64-unknown-linux-gnu) echo arm64 ;; armv7-unknown-linux-gnueabihf) echo armhf ;; esac; }
musl_of() { case $1 in aarch64-*-musl) echo arm64 ;; armv7-*-musleabihf) echo armhf ;; x86_64-*-musl) echo amd64 ;; esac; }
musl_triple() { case $1 in aarch64-*) echo aarch64-linux-musl ;; armv7-*) echo arm-linux-musleabihf ;; x86_64-*) echo x86_64-linux-musl ;; esac; }
qemu_of() { case $1 in aarch64-*-gnu) echo "qemu-aarch64-static -L /usr/aarch64-linux-gnu" ;; aarch64-*-musl) echo qemu-aarch64-static ;;
    armv7-*-gnueabihf) echo "qemu-arm-static -L /usr/arm-linux-gnueabihf" ;; armv7-*-musleabihf) echo qemu-arm-static ;;
    thumbv6m-*) echo "qemu-system-arm -M microbit -display none -monitor none -serial null -nic none -semihosting-config enable=on,target=native -kernel" ;;
    thumbv7m-*) echo "qemu-system-arm -M lm3s6965evb -display none -monitor none -serial null -nic none -semihosting-config enable=on,target=native -kernel" ;;
    thumbv7em-*) echo "qemu-system-arm -M mps2-an386 -display none -monitor none -serial null -nic none -semihosting-config enable=on,target=native -kernel" ;; esac; }
stamp() { echo "recipe $RECIPE rust $(cat "$STATE/rust" 2>/dev/null || echo none)"; }
ready() { [ "$(cat "$STATE/target-$1" 2>/dev/null)" = "$(stamp)" ] && compgen -G "$RUSTLIB/$1/lib/libcore-*.rlib" >/dev/null; }
rust_ok() { [ -s "$STATE/rust" ] && "$ROOT/bin/rustc" -V >/dev/null 2>&1 && "$ROOT/bin/cargo" -V >/dev/null 2>&1 &&
    [ -e "$RUSTLIB/x86_64-unknown-linux-gnu/bin/rust-lld" ] && [ -d "$RUSTLIB/src/rust/library/vendor" ]; }

TARGETS=("$@")
[ $# -gt 0 ] || read -r -d '' -a TARGETS <<<"$KNOWN" || true
for t in "${TARGETS[@]}"; do
    case " ${KNOWN//$'\n'/ } " in *" $t "*) ;; *) die 2 "unknown target '$t'; known: ${KNOWN//$'\n'/ }" ;; esac
done

# --- the host ----------------------------------------------------------------
[ "$(id -u)" = 0 ] || die 2 "must run as root (it installs Debian packages)"
# shellcheck disable=SC1091
host="$(. /etc/os-release 2>/dev/null && echo "${ID:-} ${VERSION_CODENAME:-}") $(dpkg --print-architecture 2>/dev/null || uname -m)"
[ "$host" = "debian bookworm amd64" ] || die 2 "written for Debian 12 (bookworm) on amd64; this is: $host"
have apt-get || die 2 "there is no apt-get"
case $PREFIX in /*/*) ;; *) die 2 "CROSS_PREFIX must be an absolute path at least two levels deep, not '$PREFIX'" ;; esac
if [ -n "$(ls -A "$PREFIX" 2>/dev/null)" ] && [ ! -e "$PREFIX/.cross-setup" ]; then
    die 2 "$PREFIX is there, but cross/setup.sh did not make it; set CROSS_PREFIX"
fi
mkdir -p "$PREFIX"
exec 9>"$PREFIX/.cross-setup"
flock -w 1800 9 || die 1 "another cross/setup.sh is at work in $PREFIX"
if [ "${CROSS_REFRESH:-0}" = 1 ]; then rm -rf "${PREFIX:?}/usr" "${PREFIX:?}/state" "${PREFIX:?}/musl" "${PREFIX:?}/bin"; fi
mkdir -p "$STATE"
WORK=$(mktemp -d -t cross-setup.XXXXXX)
trap 'rm -rf "$WORK"' EXIT
LOG=$PREFIX/setup.log

# --- apt, with lists of its own ------------------------------------------------
# Each architecture has its own lists, so that one whose index is being renewed
# on the mirror spoils neither the others nor the host's `apt-get update`.
apt_setup() { # ARCH
    local d=$WORK/apt-$1 opt="arch=$1" f uri suite comp
    [ ! -d "$d" ] || return 0
    mkdir -p "$d/lists/partial" "$d/cache/archives/partial"
    [ ! -r /usr/share/keyrings/debian-archive-keyring.gpg ] || opt+=" signed-by=/usr/share/keyrings/debian-archive-keyring.gpg"
    # shellcheck disable=SC2016
    apt-get indextargets --format '$(CREATED_BY) $(REPO_URI) $(RELEASE) $(COMPONENT)' 2>/dev/null |
        awk '$1 == "Packages" && $3 ~ /^bookworm(-updates|-security|-backports)?$/ { print $2, $3, $4 }' | sort -u >"$d/found"
    while read -r uri suite comp; do
        echo "deb [$opt] $uri $suite $comp"
        case $1:$suite:$(qemu_installed) in amd64:bookworm:*~bpo12*) echo "deb [$opt] $uri bookworm-backports $comp" ;; esac
    done <"$d/found" | sort -u >"$d/sources.list"
    grep -q ' bookworm main' "$d/sources.list" || die 1 "apt knows no Debian bookworm main archive: see /etc/apt/sources.list*"
    grep -q ' bookworm-security main' "$d/sources.list" || die 1 "apt knows no bookworm-security archive, which holds Rust >= $RUST_MIN"
    cat >"$d/apt.conf" <<CONF
Dir::Etc::SourceList "$d/sources.list";
Dir::Etc::SourceParts "-";
Dir::State::Lists "$d/lists";
Dir::Cache "$d/cache";
APT::Architecture "amd64";
APT::Architectures { "amd64"; "$1"; };
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "2";
DPkg::Lock::Timeout "600";
CONF
    for f in /var/lib/apt/lists/*bookworm*; do # older but signed, should a download fail
        if [ "$1" = amd64 ] && [ -f "$f" ]; then cp "$f" "$d/lists/"; fi
    done
    say "reading Debian's index of $1"
    if ! APT_CONFIG=$d/apt.conf apt-get -q update >"$d/log" 2>&1; then
        warn "the mirror's index of $1 is not whole (a renewal under way?): $(grep -m1 -E '^(E|Err|  File)' "$d/log" | cut -c1-160)"
    fi
    cat "$d/log" >>"$LOG"
}
aptx() { local a=$1; shift; apt_setup "$a"; APT_CONFIG=$WORK/apt-$a/apt.conf "$@"; }

qemu_installed() { dpkg-query -W -f '${db:Status-Status} ${Version}\n' qemu-utils qemu-system-common 2>/dev/null | awk '$1 == "installed" { print $2; exit }' || true; }

# safe_install PACKAGE... : nothing that is installed may be removed or, unless
# asked for, upgraded.
safe_install() {
    local sim bad
    [ $# -gt 0 ] || return 0
    apt_setup amd64
    sim=$(aptx amd64 apt-get -s --no-install-recommends install "$@" 2>&1) || { echo "$sim" >>"$LOG"; WHY=$(grep -m1 '^E:' <<<"$sim"); return 1; }
    bad=$(grep -E '^Remv ' <<<"$sim" || true)
    [ "${CROSS_ALLOW_UPGRADES:-0}" = 1 ] || bad+=$(grep -E '^Inst [^ ]+ \[' <<<"$sim" || true)
    if [ -n "$bad" ]; then WHY="it would remove or upgrade: $(awk '{print $2}' <<<"$bad" | tr '\n' ' ')"; return 1; fi
    say "installing $*"
    aptx amd64 nice -n 5 apt-get -y -q --no-remove --no-install-recommends install "$@" >>"$LOG" 2>&1 || { WHY="apt-get failed, see $LOG"; return 1; }
}
# need WHAT-IT-SERVES PROBE PACKAGE... : PROBE is a command or a file.
need() {
    local what=$1 probe=$2; shift 2
    case $probe in /*) [ ! -e "$probe" ] || return 0 ;; *) ! have "$probe" || return 0 ;; esac
    case " ${MISSING[*]-} " in *" $probe "*) return 1 ;; esac
    safe_install "$@" || { lack "$probe" "$what, from $*: $WHY"; return 1; }
}

# --- host tools ----------------------------------------------------------------
host_tools() {
    local t g v
    need "the C linker" gcc gcc libc6-dev || true
    need "the host's libc for C code" /usr/include/stdio.h libc6-dev || true
    for t in "${TARGETS[@]}"; do
        g=$(gcc_of "$t")
        case $g in
            aarch64-*) need "linker for $t" "$g" gcc-aarch64-linux-gnu libc6-dev-arm64-cross || true ;;
            arm-*) need "linker for $t" "$g" gcc-arm-linux-gnueabihf libc6-dev-armhf-cross || true ;;
        esac
        case $(qemu_of "$t") in
            qemu-aarch64*|qemu-arm*) need "running $t" "$(qemu_of "$t" | cut -d' ' -f1)" qemu-user-static || true ;;
            qemu-system-arm*)
                need "firmware sizes" arm-none-eabi-size binutils-arm-none-eabi || true
                have qemu-system-arm && continue
                # The QEMU packages of one host must be of one version: where
                # qemu-utils comes from backports, so must the emulator.
                v=$(qemu_installed)
                if [ -z "$v" ] || ! safe_install "qemu-system-arm=$v" "qemu-system-common=$v" "qemu-system-data=${v%+b[0-9]*}"; then
                    need "running firmware" qemu-system-arm qemu-system-arm || true
                fi ;;
        esac
    done
}

# --- the Rust toolchain ----------------------------------------------------------
rust_toolchain() {
    rust_ok && return 0
    local v mm d llvm
    apt_setup amd64
    v=$(aptx amd64 apt-cache madison rustc-web | awk '{print $3}' | sort -rV | head -n1)
    [ -n "$v" ] || die 1 "Debian's index has no rustc-web (bookworm-security unreachable?), see $LOG"
    dpkg --compare-versions "$v" ge "$RUST_MIN" || die 1 "the newest rustc-web in reach is $v, older than $RUST_MIN (the index of bookworm-security missing?), see $LOG"
    mm=$(cut -d. -f1,2 <<<"$v")
    say "Rust $v from Debian's packages"
    d=$WORK/debs; mkdir -p "$d" "$WORK/root"
    (cd "$d" && aptx amd64 apt-get -q download "rustc-web=$v" "cargo-web=$v" "libstd-rust-web-$mm=$v" "libstd-rust-web-dev=$v" "rust-web-src=$v" >>"$LOG" 2>&1) ||
        die 1 "downloading Rust $v failed, see $LOG"
    llvm=$(dpkg-deb -f "$d/libstd-rust-web-${mm}_"*.deb Depends | grep -oE 'libllvm[0-9]+' | head -n1)
    # shellcheck disable=SC2046
    safe_install $(missing_pkgs patchelf "$llvm" "lld-${llvm#libllvm}" \
        $(dpkg-deb -f "$d"/cargo-web_*.deb Depends | tr ',' '\n' | grep -oE '^ *lib[a-z0-9.+-]+' | tr -d ' ')) || die 1 "what rustc and cargo need: $WHY"
    local f
    for f in "$d"/rustc-web_*.deb "$d"/cargo-web_*.deb "$d"/libstd-rust-web*.deb; do dpkg-deb -x "$f" "$WORK/root"; done
    dpkg-deb --fsys-tarfile "$d"/rust-web-src_*.deb | tar -x -C "$WORK/root" --wildcards ./usr/lib/rustlib/src './usr/src/rustc-*/library'
    for f in rustc rustdoc; do patchelf --set-rpath "\$ORIGIN/../lib/x86_64-linux-gnu" "$WORK/root/usr/bin/$f"; done
    mkdir -p "$WORK/root/usr/lib/rustlib/x86_64-unknown-linux-gnu/bin"
    ln -s "/usr/bin/lld-${llvm#libllvm}" "$WORK/root/usr/lib/rustlib/x86_64-unknown-linux-gnu/bin/rust-lld"
    rm -rf "$ROOT"; rm -f "${STATE:?}"/*
    cp -a "$WORK/root/usr" "$PREFIX/"
    rm -rf "$WORK/root" "$d"
    "$ROOT/bin/rustc" -V >/dev/null || die 1 "the unpacked rustc does not start"
    "$ROOT/bin/cargo" -V >/dev/null || die 1 "the unpacked cargo does not start: $(ldd "$ROOT/bin/cargo" | grep 'not found')"
    echo "$v" >"$STATE/rust"
}
missing_pkgs() { local p; for p; do dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null | grep -qx installed || echo "$p"; done; }

# --- a target's std ----------------------------------------------------------------
std_from_deb() { # TARGET ARCH: 1 if the mirror cannot serve it
    local t=$1 a=$2 v d=$WORK/std-$2
    v=$(cat "$STATE/rust"); mkdir -p "$d/x"
    apt_setup "$a"
    (cd "$d" && aptx "$a" apt-get -q download "libstd-rust-web-dev:$a=$v" >>"$LOG" 2>&1) || return 1
    dpkg-deb -x "$d"/libstd-rust-web-dev_*.deb "$d/x" || return 1
    compgen -G "$d/x/usr/lib/rustlib/$t/lib/libcore-*.rlib" >/dev/null || return 1
    rm -rf "${RUSTLIB:?}/$t"; cp -a "$d/x/usr/lib/rustlib/$t" "$RUSTLIB/" || return 1
    rm -rf "$d"
}
std_from_source() { # TARGET
    local t=$1 w=$WORK/build-$1 src=$RUSTLIB/src/rust crates level='' began=$SECONDS
    case $t in *-none-*) crates=core,alloc,compiler_builtins level=-Copt-level=s ;; *) crates=std,panic_unwind,panic_abort,test,proc_macro ;; esac
    mkdir -p "$w/src"; echo '#![no_std]' >"$w/src/lib.rs"
    printf '[package]\nname = "stub"\nversion = "0.0.0"\nedition = "2021"\n[workspace]\n' >"$w/Cargo.toml"
    # panic_abort must carry its own panic strategy, or binaries with panic = "abort" are refused.
    printf '#!/bin/sh\ncase " $* " in *" --crate-name panic_abort "*) exec "$@" -Cpanic=abort ;; esac\nexec "$@"\n' >"$w/rustc-wrap"
    chmod +x "$w/rustc-wrap"
    say "compiling std for $t"
    # embed-bitcode: without it the users' lto = "fat" fails. The rest is what a release std is built with.
    (cd "$w" && env -i PATH=/usr/bin:/bin HOME="$w" CARGO_HOME="$w/home" CARGO_TARGET_DIR="$w/target" CARGO_BUILD_JOBS="$JOBS" \
        RUSTC="$ROOT/bin/rustc" RUSTC_BOOTSTRAP=1 RUSTC_WRAPPER="$w/rustc-wrap" \
        RUSTFLAGS="-Cembed-bitcode=yes --remap-path-prefix=$src=/rustc/$(cat "$STATE/rust") $level" \
        nice -n 5 "$ROOT/bin/cargo" build --release --offline -Zbuild-std="$crates" --target "$t" \
        --config 'source.crates-io.replace-with="vendored"' --config "source.vendored.directory=\"$src/library/vendor\"") >>"$LOG" 2>&1 || return 1
    mkdir -p "$RUSTLIB/$t/lib"; rm -f "$RUSTLIB/$t/lib"/*.rlib
    find "$w/target/$t/release/deps" -name '*.rlib' ! -name 'libstub-*' -exec cp -t "$RUSTLIB/$t/lib/" {} + || return 1
    rm -rf "$w"
    say "compiled std for $t in $((SECONDS - began)) s"
}

# --- musl: C library, start files and unwinder for static binaries ---------------------
musl_parts() { # TARGET
    local t=$1 a m g d o w=$WORK/musl-$1 inc
    a=$(musl_of "$t") m=$(musl_triple "$t") g=$(gcc_of "$t"); inc=$PREFIX/musl/$m/include d=$RUSTLIB/$t/lib/self-contained
    mkdir -p "$w/x" "$d" "$PREFIX/bin" "$PREFIX/musl/$m"
    apt_setup "$a"
    (cd "$w" && aptx "$a" apt-get -q download "musl-dev:$a" >>"$LOG" 2>&1) || { WHY="no musl-dev for $a in the mirror's index"; return 1; }
    WHY="assembling musl's parts failed, see $LOG"
    dpkg-deb -x "$w"/musl-dev_*.deb "$w/x" || return 1
    rm -rf "$inc"; cp -a "$w/x/usr/include/$m" "$inc" || return 1
    for o in crt1.o Scrt1.o rcrt1.o crti.o crtn.o libc.a; do cp "$w/x/usr/lib/$m/$o" "$d/" || return 1; done
    for o in crtbegin.o crtbeginS.o crtend.o crtendS.o; do cp "$("$g" -print-file-name=$o)" "$d/" || return 1; done
    # The unwinder: GCC's, with what it expects of glibc and musl has not.
    cp "$("$g" -print-file-name=libgcc_eh.a)" "$d/libunwind.a" || return 1
    cat >"$w/shim.c" <<'SHIM'
/* GCC 12's unwinder asks glibc's _dl_find_object() for the exception table of
   a code address; musl has none, so answer through dl_iterate_phdr(). */
typedef unsigned long W;
#if __SIZEOF_POINTER__ == 8
typedef struct { unsigned type, flags; W offset, vaddr, paddr, filesz, memsz, align; } Ph;
#else
typedef struct { unsigned type, offset, vaddr, paddr, filesz, memsz, flags, align; } Ph;
#endif
struct info { W addr; const char *name; const Ph *phdr; unsigned short phnum; };
struct found { unsigned long long flags; void *start, *end, *map, *eh_frame; unsigned long long reserved[7]; };
struct query { W pc; struct found *out; };
int dl_iterate_phdr(int (*)(struct info *, W, void *), void *);
static int look(struct info *i, W size, void *p) {
    struct query *q = p; W lo = 0, hi = 0, eh = 0; (void)size;
    for (unsigned n = 0; n < i->phnum; n++) {
        const Ph *h = &i->phdr[n]; W a = i->addr + h->vaddr;
        if (h->type == 1 && q->pc - a < h->memsz) { lo = a; hi = a + h->memsz; }
        if (h->type == 0x6474e550) eh = a; /* PT_GNU_EH_FRAME */
    }
    if (!hi || !eh) return 0;
    q->out->flags = 0; q->out->start = (void *)lo; q->out->end = (void *)hi; q->out->map = 0; q->out->eh_frame = (void *)eh;
    return 1;
}
int _dl_find_object(void *pc, struct found *out) { struct query q = { (W)pc, out }; return dl_iterate_phdr(look, &q) == 1 ? 0 : -1; }
/* libgcc_eh refers to these weakly, and a static link would leave them null. */
extern char pthread_once[], pthread_mutex_lock[], pthread_mutex_unlock[], pthread_getspecific[], pthread_setspecific[], pthread_key_create[];
__attribute__((used)) const void *const __unwind_pthreads[] = { pthread_once, pthread_mutex_lock, pthread_mutex_unlock, pthread_getspecific, pthread_setspecific, pthread_key_create };
SHIM
    "$g" -Os -fPIC -ffreestanding -fno-stack-protector -c "$w/shim.c" -o "$w/unwind_shim.o" >>"$LOG" 2>&1 || return 1
    ar r "$d/libunwind.a" "$w/unwind_shim.o" >>"$LOG" 2>&1 || return 1
    # A compiler with musl's headers, for crates that compile C; it links too.
    printf '#!/bin/sh\nexec %s -nostdinc -isystem %s -isystem %s "$@"\n' "$g" "$inc" "$("$g" -print-file-name=include)" >"$PREFIX/bin/$m-gcc"
    chmod +x "$PREFIX/bin/$m-gcc"; ln -sfn "$(command -v "${g%gcc}ar")" "$PREFIX/bin/$m-ar"
    rm -rf "$w"
}

# --- does it link and run? ---------------------------------------------------------------
prove() { # TARGET
    local t=$1 w=$WORK/prove-$1 out q; mkdir -p "$w"
    case $t in
        *-none-*)
            printf '#![no_std]\n#![no_main]\nuse core::panic::PanicInfo;\n#[panic_handler] fn p(_: &PanicInfo) -> ! { loop {} }\n#[no_mangle] pub extern "C" fn _start(n: u32) -> u64 { core::hint::black_box(n as u64 / 7) }\n' >"$w/p.rs"
            nice -n 5 "$ROOT/bin/rustc" --target "$t" -Cpanic=abort -Clto=fat -Copt-level=z -o "$w/p" "$w/p.rs" >>"$LOG" 2>&1 || return 1 ;;
        *)
            printf 'fn main() { let r = std::thread::spawn(|| std::panic::catch_unwind(|| { panic!("x") }).is_err()).join().unwrap(); println!("caught {r}"); }\n' >"$w/p.rs"
            q=$(qemu_of "$t")
            for o in "-Cpanic=unwind" "-Cpanic=abort -Clto=fat -Copt-level=z"; do
                # shellcheck disable=SC2086
                nice -n 5 "$ROOT/bin/rustc" --target "$t" $o -Clinker="$(gcc_of "$t")" -o "$w/p" "$w/p.rs" >>"$LOG" 2>&1 || return 1
                case $o in *abort*) continue ;; esac
                have "${q%% *}" || [ -z "$q" ] || continue
                # shellcheck disable=SC2086
                out=$(nice -n 5 $q "$w/p" 2>>"$LOG") || return 1
                [ "$out" = "caught true" ] || return 1
            done ;;
    esac
    rm -rf "$w"
}

make_target() { # TARGET
    local t=$1 a g
    g=$(gcc_of "$t")
    if [ -n "$g" ] && ! have "$g"; then lack "$t" "$g is not there to link it"; return 0; fi
    a=$(deb_std_of "$t")
    if [ -n "$a" ] && std_from_deb "$t" "$a"; then
        say "std for $t from Debian's $a package"
    else
        [ -z "$a" ] || warn "no std of the same version for $a in the mirror's index; compiling it instead"
        rm -rf "${RUSTLIB:?}/$t"
        std_from_source "$t" || { lack "$t" "compiling its std failed, see $LOG"; return 0; }
    fi
    if [ -n "$(musl_of "$t")" ]; then musl_parts "$t" || { lack "$t" "$WHY"; rm -rf "${RUSTLIB:?}/$t"; return 0; }; fi
    prove "$t" || { lack "$t" "a test program did not link or run, see $LOG"; return 0; }
    stamp >"$STATE/target-$t"
}

write_env() {
    local t u l r
    {
        echo "# Source this: linkers, C compilers and runners for cargo. Made by cross/setup.sh."
        echo "case \":\$PATH:\" in *:$PREFIX/bin:*) ;; *) PATH=$PREFIX/bin:\$PATH; export PATH ;; esac"
        for t in $KNOWN; do
            u=$(tr 'a-z-' 'A-Z_' <<<"$t"); r=$(qemu_of "$t"); l=$(gcc_of "$t")
            case $t in *-musl*) l=$PREFIX/bin/$(musl_triple "$t")-gcc
                echo "export CC_${t//-/_}=$l AR_${t//-/_}=${l%gcc}ar" ;; esac
            [ -z "$l" ] || echo "export CARGO_TARGET_${u}_LINKER=$l"
            [ -z "$r" ] || echo "export CARGO_TARGET_${u}_RUNNER=\"$r\""
        done
    } >"$PREFIX/env.sh.new"
    mv "$PREFIX/env.sh.new" "$PREFIX/env.sh"
}

link_rustup() {
    have rustup || return 0
    local at; at=$(readlink -f "${RUSTUP_HOME:-$HOME/.rustup}/toolchains/$TOOLCHAIN" 2>/dev/null || true)
    [ "$at" != "$(readlink -f "$ROOT")" ] || return 0
    if [ -e "${RUSTUP_HOME:-$HOME/.rustup}/toolchains/$TOOLCHAIN" ]; then die 1 "rustup has another toolchain named $TOOLCHAIN; set CROSS_TOOLCHAIN"; fi
    rustup toolchain link "$TOOLCHAIN" "$ROOT" >>"$LOG" 2>&1 || die 1 "rustup toolchain link $TOOLCHAIN $ROOT failed, see $LOG"
}

# --- all together ----------------------------------------------------------------------------
host_tools
rust_toolchain
for t in "${TARGETS[@]}"; do if ! ready "$t"; then make_target "$t"; fi; done
write_env
link_rustup

installed=''
for t in $KNOWN; do if ready "$t"; then installed+=" $t"; fi; done
if have rustup; then echo "toolchain: $TOOLCHAIN ($("$ROOT/bin/rustc" -V | cut -d' ' -f1,2), cargo +$TOOLCHAIN)"
else echo "toolchain: $ROOT/bin/cargo with RUSTC=$ROOT/bin/rustc ($("$ROOT/bin/rustc" -V | cut -d' ' -f1,2), no rustup here)"; fi
echo "targets:$installed"
echo "environment: . $PREFIX/env.sh"
if [ ${#MISSING[@]} -gt 0 ]; then echo "missing: ${MISSING[*]}"; exit 3; fi
