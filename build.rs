//! Tells the program with libtorch where libtorch lies.

use std::error::Error;

/// An installed program looks beside itself first, a freshly built one in the cache; LD_LIBRARY_PATH beats both.
fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-env-changed=LIBTORCH_INCLUDE");
    if std::env::var_os("CARGO_FEATURE_TORCH").is_none() {
        return Ok(());
    }
    let arg = |arg: &str| println!("cargo:rustc-link-arg-bin=headswap-torch=-Wl,{arg}");
    arg("--enable-new-dtags");
    arg("-rpath,$ORIGIN/../lib");
    if let Some(torch) = std::env::var_os("LIBTORCH_INCLUDE") {
        let library_dir = std::fs::canonicalize(torch)?.join("lib");
        arg(&format!("-rpath,{}", library_dir.display()));
    }
    Ok(())
}
