//! Compiles the CUDA shim with the C++ compiler.

use std::error::Error;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

const SOURCE: &str = "src/cuda/shim.cpp";

/// Compiles the shim to a shared library, which the binary contains as data and opens only for a GPU. That needs CUDA's
/// headers, which `scripts/setup` puts beside libtorch's, but not its compiler.
fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={SOURCE}");
    println!("cargo:rerun-if-env-changed=LIBTORCH_INCLUDE");
    println!("cargo:rerun-if-env-changed=CXX");
    let library = PathBuf::from(std::env::var("OUT_DIR")?).join("libheadswap_cuda.so");
    let torch =
        PathBuf::from(std::env::var("LIBTORCH_INCLUDE").map_err(|_| "LIBTORCH_INCLUDE is not set; run scripts/setup")?);
    let cuda = torch.join("../nvidia/cu13");
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
        .args([&library, Path::new(SOURCE)])
        .args([library_dir(&torch), library_dir(&cuda)])
        .args([
            "-ltorch_cuda",
            "-lc10_cuda",
            "-ltorch_cpu",
            "-lc10",
            "-l:libcudart.so.13",
        ])
        .status()?;
    // The library path of this crate's tests; that of the program is set by its own build script.
    println!(
        "cargo:rustc-link-arg=-Wl,-rpath,{}",
        torch.canonicalize()?.join("lib").display()
    );
    if !status.success() {
        return Err(format!("{SOURCE} does not compile; run scripts/setup, which installs the headers").into());
    }
    Ok(())
}

fn include(dir: &Path) -> [OsString; 2] {
    ["-isystem".into(), dir.join("include").into_os_string()]
}

fn library_dir(dir: &Path) -> String {
    format!("-L{}", dir.join("lib").display())
}
