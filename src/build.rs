//! How the programs are linked.

fn main() {
    println!("cargo::rerun-if-changed=src/build.rs");
    // Some 4000 relocations of 24 bytes each become a few kB; glibc knows the packed form since 2.36,
    // which Bookworm has. Debian's linker for arm64 does not know it yet.
    let target = |key: &str| std::env::var(format!("CARGO_CFG_TARGET_{key}")).unwrap_or_default();
    if (target("ARCH").as_str(), target("ENV").as_str()) == ("x86_64", "gnu") {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}
