//! What a benchmark ran on.

use std::fmt;
use std::thread::available_parallelism;

use headswap_model::{BackendChoice, BackendSettings};
use headswap_proto::DescribeModelResponse;
use serde_json::{Value, json};

use crate::commands::error::CliError;
use crate::commands::output::{print_json, print_line};

/// The machine of this process and what computed.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    cpu: String,
    cores: usize,
    instruction_set: &'static str,
    /// What ran the forward pass, if anything did and it is known.
    pub computes: Computes,
    /// The server that was measured, if it was not this program's own.
    pub server: Option<String>,
}

/// What ran the forward pass. What is not known is None.
#[derive(Clone, Debug, Default)]
pub(super) struct Computes {
    backend: Option<&'static str>,
    device: Option<String>,
    precision: Option<String>,
    threads: Option<usize>,
}

impl Machine {
    /// This machine, for what does not compute a forward pass.
    pub fn here() -> Self {
        Self {
            cpu: cpu_model(),
            cores: available_parallelism().map_or(1, usize::from),
            instruction_set: instruction_set(),
            computes: Computes::default(),
            server: None,
        }
    }

    /// This machine, on which these settings compute on `device` in `precision`.
    pub fn computing(settings: &BackendSettings, device: &str, precision: &str) -> Self {
        Self {
            computes: Computes {
                backend: Some(backend(settings, device)),
                device: Some(device.to_owned()),
                precision: Some(precision.to_owned()),
                threads: (settings.backend != BackendChoice::Null).then(|| settings.threads()),
            },
            ..Self::here()
        }
    }

    /// The same for a server that this program started with these settings and that describes its model so.
    pub fn serving(settings: &BackendSettings, model: &DescribeModelResponse) -> Self {
        Self::computing(settings, &model.device, &model.precision)
    }

    /// This machine, on which `threads` threads decode.
    pub fn decoding(threads: usize) -> Self {
        Self {
            computes: Computes {
                threads: Some(threads),
                ..Computes::default()
            },
            ..Self::here()
        }
    }

    /// This machine as the client of a running server, which may have described its model.
    pub fn asking(server: &str, model: Option<&DescribeModelResponse>) -> Self {
        Self {
            computes: Computes {
                device: model.map(|model| model.device.clone()),
                precision: model.map(|model| model.precision.clone()),
                ..Computes::default()
            },
            server: Some(server.to_owned()),
            ..Self::here()
        }
    }

    /// Prints it as the first line of JSON.
    pub fn print_json(&self) -> Result<(), CliError> {
        print_json(&json!({ "machine": self.json() }))
    }

    /// Prints it as the line below the tables.
    pub fn print(&self) -> Result<(), CliError> {
        print_line(format_args!("\n{self}"))
    }

    fn json(&self) -> Value {
        let Computes {
            backend,
            device,
            precision,
            threads,
        } = &self.computes;
        json!({
            "cpu": self.cpu, "cores": self.cores, "instruction_set": self.instruction_set, "backend": backend,
            "device": device, "precision": precision, "threads": threads, "server": self.server,
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            cpu,
            cores,
            instruction_set,
            ..
        } = self;
        match &self.server {
            Some(server) => write!(f, "server: {server}, asked from {cpu}, cores: {cores}")?,
            None => write!(f, "machine: {cpu}, cores: {cores}, instruction set: {instruction_set}")?,
        }
        let computes = &self.computes;
        if let Some(backend) = computes.backend {
            write!(f, ", backend: {backend}")?;
        }
        if let Some(device) = &computes.device {
            write!(f, ", device: {device}")?;
        }
        if let Some(precision) = &computes.precision {
            write!(f, ", precision: {precision}")?;
        }
        match computes.threads {
            Some(threads) => write!(f, ", threads: {threads}"),
            None => Ok(()),
        }
    }
}

/// What `auto` came to.
fn backend(settings: &BackendSettings, device: &str) -> &'static str {
    match settings.backend {
        BackendChoice::Native => "native",
        BackendChoice::Torch => "torch",
        BackendChoice::Null => "null",
        BackendChoice::Auto if device == "cpu" && !settings.torch_on_cpu() => "native",
        BackendChoice::Auto => "torch",
    }
}

/// As the kernel calls it; on Arm it has no such line.
fn cpu_model() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    for line in info.lines() {
        if let Some((key, value)) = line.split_once(':')
            && key.trim() == "model name"
        {
            return value.trim().to_owned();
        }
    }
    format!("an unnamed {} CPU", std::env::consts::ARCH)
}

/// The widest that the forward pass of our own has kernels for.
#[cfg(target_arch = "x86_64")]
fn instruction_set() -> &'static str {
    let avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vnni");
    if avx512 {
        "AVX-512 with VNNI"
    } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        "AVX2"
    } else {
        "x86-64 without AVX2"
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn instruction_set() -> &'static str {
    std::env::consts::ARCH
}
