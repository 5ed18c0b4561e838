# To be sourced: where the Windows toolchain lies, and what its programs need to be told. Everything is in .cache/windows, which git ignores.

WINDOWS_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
WINDOWS_TOOLCHAIN=${WINDOWS_TOOLCHAIN:-$WINDOWS_ROOT/.cache/windows}
WINDOWS_TARGET=x86_64-pc-windows-gnu

# Wine: a prefix of our own (WINDOWS_PREFIX names another one), without dialogs for Mono and Gecko, without its own log.
export WINEPREFIX=${WINDOWS_PREFIX:-$WINDOWS_TOOLCHAIN/prefix}
export WINEARCH=win64
export WINEDEBUG=${WINEDEBUG:--all}
export WINEDLLOVERRIDES="mscoree=;mshtml="
unset DISPLAY
# Each Python of the suite would compile everything that it imports.
unset PYTHONDONTWRITEBYTECODE

# For one command: Debian's Rust for Windows, apart from any other Rust of the machine. Its standard library is built from source (RUSTC_BOOTSTRAP: -Zbuild-std); no debugger is run there, so
# what only that needs is left out of the builds of tests.
with_windows_rust() {
    local rust=$WINDOWS_TOOLCHAIN/rust/usr
    env -u RUSTUP_TOOLCHAIN -u RUSTUP_HOME \
        PATH="$rust/bin:$PATH" \
        LD_LIBRARY_PATH="$rust/lib/x86_64-linux-gnu" \
        RUSTC="$rust/bin/rustc" RUSTDOC="$rust/bin/rustdoc" \
        RUSTC_BOOTSTRAP=1 \
        CARGO_HOME="$WINDOWS_TOOLCHAIN/cargo" \
        CARGO_PROFILE_DEV_DEBUG=0 \
        CARGO_TARGET_DIR="$WINDOWS_TOOLCHAIN/target" \
        CARGO_TARGET_X86_64_PC_WINDOWS_GNU_LINKER=x86_64-w64-mingw32-gcc \
        CARGO_TARGET_X86_64_PC_WINDOWS_GNU_RUNNER="$WINDOWS_ROOT/tools/windows/run" \
        "$@"
}
