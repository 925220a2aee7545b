//! Keeps `proto/src/generated` equal to what `proto/monitoring.proto` generates.
//!
//! `cargo xtask codegen` runs this test with `PICKET_CODEGEN=write`, which writes the files instead. The
//! generator is a dev-dependency, so nobody who only builds picket compiles it, and it is pure Rust, so
//! nobody needs protoc.

use std::fs;
use std::path::{Path, PathBuf};

use protox::prost::Message as _;

/// The descriptor set is what gRPC reflection serves.
const DESCRIPTOR_FILE: &str = "descriptor.bin";
const CODE_FILE: &str = "monitoring.rs";

fn proto_crate() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../proto")
}

fn generate(into: &Path) {
    let sources = proto_crate().join("proto");
    let set = protox::compile([sources.join("monitoring.proto")], [&sources])
        .unwrap_or_else(|error| panic!("monitoring.proto: {error:?}"));
    fs::write(into.join(DESCRIPTOR_FILE), set.encode_to_vec()).unwrap();
    tonic_prost_build::configure()
        .build_transport(false)
        .client_mod_attribute(".", "#[cfg(feature = \"client\")]")
        .server_mod_attribute(".", "#[cfg(feature = \"server\")]")
        .out_dir(into)
        .compile_fds(set)
        .unwrap();
}

#[test]
fn generated_code_is_fresh() {
    let committed = proto_crate().join("src/generated");
    if std::env::var_os("PICKET_CODEGEN").is_some_and(|value| value == "write") {
        generate(&committed);
        return;
    }
    let fresh = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("generated");
    fs::create_dir_all(&fresh).unwrap();
    generate(&fresh);
    for file in [CODE_FILE, DESCRIPTOR_FILE] {
        assert!(
            fs::read(fresh.join(file)).unwrap() == fs::read(committed.join(file)).unwrap(),
            "proto/src/generated/{file} is not what monitoring.proto generates: run `cargo xtask codegen`"
        );
    }
}
