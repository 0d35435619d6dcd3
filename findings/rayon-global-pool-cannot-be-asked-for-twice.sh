#!/usr/bin/env bash
# rayon 1.12.0, rayon-core 1.13.0: ThreadPoolBuilder::build_global() that fails counts as done. When the system gives no
# thread at the first call, a second call with less to ask for (here one worker, which is the calling thread and needs no
# new one) says that the pool "has already been initialized", though there is none; what shares work afterwards panics. So
# a program that wants to go on without threads must find out by itself whether they can be had before it asks rayon.
# Seen on 2026-11-30 on x86-64 Linux with Rust 1.95: first "Resource temporarily unavailable" or "Invalid argument", then "has already
# been initialized"; in the other order the small pool works.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/src"
cat > "$folder/Cargo.toml" <<'TOML'
[package]
name = "twice"
version = "0.0.0"
edition = "2024"
[dependencies]
rayon = "=1.12.0"
rayon-core = "=1.13.0"
TOML
cat > "$folder/src/main.rs" <<'RUST'
use rayon::ThreadPoolBuilder;

fn main() {
    // A stack as large as the address space: the system refuses to start such a thread.
    let large = || ThreadPoolBuilder::new().num_threads(2).stack_size(1 << 62).build_global();
    let small = || ThreadPoolBuilder::new().num_threads(1).use_current_thread().build_global();
    if std::env::args().count() == 1 {
        println!("first: {}", large().expect_err("no system has such stacks"));
        match small() {
            Ok(()) => println!("then: it is there"),
            Err(e) => println!("then: {e}"),
        }
    } else {
        small().expect("one thread, which is there");
        println!("alone: {} thread", rayon::current_num_threads());
    }
}
RUST
cargo build --quiet --release --manifest-path "$folder/Cargo.toml"
found=$("$folder/target/release/twice"; "$folder/target/release/twice" alone)
echo "$found"
grep -q '^then: .*already been initialized' <<< "$found"
grep -q '^alone: 1 thread' <<< "$found"
