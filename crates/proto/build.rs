//! Compiles the proto files with a compiler in Rust, so that building needs no protoc.

use std::error::Error;
use std::path::PathBuf;

use prost::Message as _;
use protox::Compiler;

const PROTO: &str = "../../proto";
const ERROR_DETAILS: &str = "google/rpc/error_details.proto";

fn main() -> Result<(), Box<dyn Error>> {
    let out_dir = PathBuf::from(std::env::var("OUT_DIR")?);
    println!("cargo:rerun-if-changed={PROTO}");

    let mut descriptors = Compiler::new([PROTO])?
        .include_imports(true)
        .include_source_info(true)
        .open_files([
            "headswap/v1/classifier.proto",
            "headswap/v1/head_admin.proto",
            "headswap/v1/head_spec.proto",
        ])?
        .file_descriptor_set();
    std::fs::write(out_dir.join("headswap_descriptor.bin"), descriptors.encode_to_vec())?;
    // tonic-types has the code for these.
    descriptors.file.retain(|file| file.name() != ERROR_DETAILS);
    tonic_prost_build::configure()
        .extern_path(".google.rpc.Status", "::tonic_types::Status")
        .bytes(".headswap.v1")
        .compile_fds(descriptors)?;
    Ok(())
}
