//! Opens the backend that the settings choose.

use winograd::Engine;

use super::backend::{Backend, BackendError};
use super::devices::on_devices;
use super::native::native_backend;
use super::null::{NullSettings, null_backend};
use super::settings::{BackendChoice, BackendSettings, Device, DeviceChoice, Precision};
use super::weights::Backbone;

/// libtorch, which some programs do not link.
pub trait TorchRuntime: Sync {
    /// Configures the process for computing on the CPU. Must be called before any thread is started.
    fn prepare_process(&self);

    /// Returns the devices of a choice, at least one.
    ///
    /// # Errors
    /// [`BackendError::Settings`] says why a chosen GPU cannot be used.
    fn devices(&self, choice: DeviceChoice) -> Result<Vec<Device>, BackendError>;

    /// Places `backbones`, at least one, without their last Linears, on a device. `threads` is the number of threads of one operation on the
    /// CPU.
    ///
    /// # Errors
    /// [`BackendError::Settings`] if libtorch has another version or does not support the precision,
    /// [`BackendError::OutOfMemory`] if the device has too little memory.
    fn backend(
        &self,
        backbones: &[Backbone],
        device: Device,
        precision: Precision,
        threads: usize,
    ) -> Result<Box<dyn Backend>, BackendError>;
}

/// Places `backbones`, at least one, without their last Linears, on the device or on each of several.
///
/// # Errors
/// [`BackendError::Settings`] if the settings contradict each other, the device does not exist, or libtorch is needed and
/// `torch` is `None`; others as [`TorchRuntime::backend`].
pub fn open_backend(
    backbones: Vec<Backbone>,
    settings: &BackendSettings,
    torch: Option<&dyn TorchRuntime>,
) -> Result<Box<dyn Backend>, BackendError> {
    if settings.backend == BackendChoice::Null {
        let width = backbones.first().map_or(0, |first| first.architecture.features());
        return Ok(null_backend(width, NullSettings::default()));
    }
    let devices = match torch {
        Some(torch) if settings.backend != BackendChoice::Native => torch.devices(settings.device)?,
        _ => cpu_only(settings)?,
    };
    if settings.backend == BackendChoice::Native && !settings.native_computes_precision() {
        return Err(native_cannot("computes in f32 or int16; change --precision"));
    }
    if devices == [Device::Cpu] && !settings.torch_on_cpu() {
        let engine = engine(settings)?;
        let instruction_set = engine.isa();
        let native = native_backend(backbones, settings.precision, engine)?;
        tracing::info!(
            backend = "native",
            ?instruction_set,
            threads = settings.threads(),
            precision = native.precision(),
            "backend opened"
        );
        return Ok(native);
    }
    let torch = torch.ok_or_else(|| lacks_libtorch("these settings"))?;
    if settings.pin_threads {
        let reason = "--pin-threads is for --backend native; OMP_PROC_BIND pins libtorch's threads";
        return Err(BackendError::Settings(reason.into()));
    }
    let mut backends = Vec::new();
    for device in devices {
        backends.push(torch.backend(&backbones, device, settings.precision, settings.threads())?);
    }
    let first = backends.remove(0);
    tracing::info!(
        backend = "torch",
        devices = 1 + backends.len(),
        threads = settings.threads(),
        precision = first.precision(),
        "backend opened"
    );
    Ok(if backends.is_empty() {
        first
    } else {
        on_devices(first, backends)
    })
}

fn cpu_only(settings: &BackendSettings) -> Result<Vec<Device>, BackendError> {
    match (settings.device, settings.backend) {
        (DeviceChoice::Cuda(_), BackendChoice::Native) => Err(native_cannot("computes on the CPU; add --device cpu")),
        (DeviceChoice::Cuda(_), _) => Err(lacks_libtorch("GPUs")),
        (DeviceChoice::Auto | DeviceChoice::Cpu, _) => Ok(vec![Device::Cpu]),
    }
}

fn engine(settings: &BackendSettings) -> Result<Engine, BackendError> {
    if !settings.pin_threads {
        return Ok(Engine::new(settings.threads()));
    }
    Engine::pinned(settings.threads())
        .map_err(|error| BackendError::Settings(format!("threads cannot be pinned: {error}; drop --pin-threads")))
}

fn native_cannot(reason: &str) -> BackendError {
    BackendError::Settings(format!("--backend native {reason}, or choose --backend torch"))
}

fn lacks_libtorch(what: &str) -> BackendError {
    BackendError::Settings(format!(
        "{what} need libtorch, which this build of headswap does not have; build it with its default features, or choose \
         --backend native --device cpu"
    ))
}
