//! libtorch, kept out of the program that does not need it.
//!
//! Linking libtorch costs 0.3 s and 120 MB at every start. So it is linked into a program of its own, `headswap-torch`, with
//! the same commands, and `headswap` replaces itself by that program when the settings ask for what libtorch alone computes.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use headswap_model::{BackendChoice, BackendSettings, DeviceChoice, TorchRuntime};
use libloading::os::unix::{Library, Symbol};

/// The program with libtorch, which is installed beside this one.
const PROGRAM: &str = "headswap-torch";
/// Tells the program with libtorch which version of `headswap` started it.
const STARTED_BY: &str = "_HEADSWAP_STARTED_BY";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Sees to it that libtorch is there if `settings` ask for it: in the program that links it, prepares the process for it; in
/// the other one, becomes the former, with the same arguments. To be called before any thread is started. Returns if there is
/// no such program, and then [`headswap_model::open_backend`] says what is missing.
///
/// # Errors
/// If the system does not start the program, or the two are of different versions.
pub(crate) fn ensure(settings: &BackendSettings, torch: Option<&dyn TorchRuntime>) -> io::Result<()> {
    if let Some(torch) = torch {
        same_version(std::env::var(STARTED_BY).ok().as_deref())?;
        if settings.torch_on_cpu() {
            torch.prepare_process();
        }
        return Ok(());
    }
    if !needs_libtorch(settings) {
        return Ok(());
    }
    if let Some(program) = program() {
        let mut command = Command::new(program);
        command.args(std::env::args_os().skip(1)).env(STARTED_BY, VERSION);
        return Err(command.exec());
    }
    if settings.device == DeviceChoice::Auto && !settings.torch_on_cpu() {
        tracing::warn!("there is a GPU, but this build of headswap has no libtorch; computing on the CPU");
    }
    Ok(())
}

/// Refuses to compute for a `headswap` of another version, if one started this program.
fn same_version(started_by: Option<&str>) -> io::Result<()> {
    match started_by {
        Some(version) if version != VERSION => Err(io::Error::other(format!(
            "headswap is version {version} and {PROGRAM} beside it {VERSION}; install both from one build"
        ))),
        _ => Ok(()),
    }
}

/// The program beside this one, if this one was built to have it.
fn program() -> Option<PathBuf> {
    if cfg!(not(feature = "torch")) {
        return None;
    }
    let program = std::env::current_exe().ok()?.with_file_name(PROGRAM);
    program.is_file().then_some(program)
}

fn needs_libtorch(settings: &BackendSettings) -> bool {
    let gpu = match (settings.backend, settings.device) {
        (BackendChoice::Native | BackendChoice::Null, _) | (_, DeviceChoice::Cpu) => false,
        (_, DeviceChoice::Cuda(_)) => true,
        (_, DeviceChoice::Auto) => gpus() > 0,
    };
    gpu || settings.torch_on_cpu()
}

/// The number of NVIDIA GPUs that the driver finds; 0 without a driver.
fn gpus() -> i32 {
    type Init = unsafe extern "C" fn(flags: u32) -> i32;
    type Count = unsafe extern "C" fn(count: *mut i32) -> i32;
    // SAFETY: the driver's library has no initialisers that need anything of this process; no other thread runs yet.
    let Ok(driver) = (unsafe { Library::new("libcuda.so.1") }) else {
        return 0;
    };
    // SAFETY: the types are those of cuInit and cuDeviceGetCount in CUDA's driver API.
    let functions: Result<(Symbol<Init>, Symbol<Count>), _> = unsafe {
        driver
            .get(b"cuInit\0")
            .and_then(|init| Ok((init, driver.get(b"cuDeviceGetCount\0")?)))
    };
    let Ok((init, count)) = functions else { return 0 };
    let mut gpus = 0;
    // SAFETY: cuInit takes 0 alone; cuDeviceGetCount writes one number.
    let failed = unsafe { init(0) != 0 || count(&raw mut gpus) != 0 };
    if failed { 0 } else { gpus }
}
