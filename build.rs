//! Compiles the proto files with a pure-Rust compiler and the shim for CUDA with the C++ compiler, and tells the binary where
//! libtorch lies.

use std::error::Error;
use std::path::{Path, PathBuf};

use prost::Message as _;
use prost_types::FileDescriptorSet;
use protox::Compiler;
use protox::file::{ChainFileResolver, DescriptorSetFileResolver, GoogleFileResolver, IncludeFileResolver};

const ERROR_DETAILS: &str = "google/rpc/error_details.proto";

fn main() -> Result<(), Box<dyn Error>> {
    let out_dir = PathBuf::from(std::env::var("OUT_DIR")?);
    println!("cargo:rerun-if-changed=proto");

    let mut resolver = ChainFileResolver::new();
    resolver.add(IncludeFileResolver::new("proto".into()));
    resolver.add(DescriptorSetFileResolver::new(google_rpc()?));
    resolver.add(GoogleFileResolver::new());
    let mut descriptors = Compiler::with_file_resolver(resolver)
        .include_imports(true)
        .include_source_info(true)
        .open_files(["headswap/v1/classifier.proto", "headswap/v1/head_admin.proto"])?
        .file_descriptor_set();
    std::fs::write(out_dir.join("headswap_descriptor.bin"), descriptors.encode_to_vec())?;
    // No code for what tonic-types has.
    descriptors.file.retain(|file| file.name() != ERROR_DETAILS);
    tonic_prost_build::configure()
        .extern_path(".google.rpc.Status", "::tonic_types::Status")
        .bytes(".headswap.v1")
        .compile_fds(descriptors)?;

    // An installed binary looks beside itself first, a freshly built one in the cache; LD_LIBRARY_PATH beats both.
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    println!("cargo:rustc-link-arg=-Wl,--enable-new-dtags");
    println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/../lib");
    if let Ok(libtorch) = std::env::var("LIBTORCH") {
        let library_dir = std::fs::canonicalize(libtorch)?.join("../torch/lib");
        println!(
            "cargo:rustc-link-arg=-Wl,-rpath,{}",
            std::fs::canonicalize(library_dir)?.display()
        );
    }
    cuda_shim(&out_dir.join("libheadswap_cuda.so"))
}

/// Compiles the shim into a shared library, which the binary carries as data: whoever has no GPU never opens it. CUDA's
/// compiler is not needed, only its headers, which `scripts/setup` puts beside libtorch's.
fn cuda_shim(library: &Path) -> Result<(), Box<dyn Error>> {
    const SOURCE: &str = "src/model/torch/cuda/shim.cpp";
    println!("cargo:rerun-if-changed={SOURCE}");
    println!("cargo:rerun-if-env-changed=LIBTORCH_INCLUDE");
    println!("cargo:rerun-if-env-changed=CXX");
    let torch =
        PathBuf::from(std::env::var("LIBTORCH_INCLUDE").map_err(|_| "LIBTORCH_INCLUDE is not set; run scripts/setup")?);
    let cuda = torch.join("../nvidia/cu13");
    let include = |dir: &Path| ["-isystem".into(), dir.join("include").into_os_string()];
    let library_dir = |dir: &Path| format!("-L{}", dir.join("lib").display());
    let compiler = cc::Build::new()
        .cpp(true)
        .std("c++17")
        .opt_level(2)
        .cargo_metadata(false)
        .get_compiler();
    let status = compiler
        .to_command()
        .args(include(&torch))
        .args(include(&cuda))
        .args(["-shared", "-fPIC", "-Wl,-z,defs", "-Wl,-s", "-o"])
        .args([library, Path::new(SOURCE)])
        .args([library_dir(&torch), library_dir(&cuda)])
        .args([
            "-ltorch_cuda",
            "-lc10_cuda",
            "-ltorch_cpu",
            "-lc10",
            "-l:libcudart.so.13",
        ])
        .status()?;
    if !status.success() {
        return Err(format!("{SOURCE} does not compile; run scripts/setup, which brings the headers").into());
    }
    Ok(())
}

/// `google.rpc` as tonic-types carries it, under the names that importers know it by.
fn google_rpc() -> Result<FileDescriptorSet, prost::DecodeError> {
    let mut descriptors = FileDescriptorSet::decode(tonic_types::pb::FILE_DESCRIPTOR_SET)?;
    descriptors.file.retain(|file| !file.name().contains('/'));
    for file in &mut descriptors.file {
        file.name = Some(format!("google/rpc/{}", file.name()));
    }
    Ok(descriptors)
}
