//! Where heads are kept, and how many.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use headswap_heads::{RegistryLimits, ResidencyLimits};

use super::at_least_one;

/// When heads of the store are brought to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum HeadsLoad {
    /// At start, as far as there is room.
    Eager,
    /// When first asked for.
    Lazy,
}

/// Where heads are kept, and how many.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Heads")]
pub struct HeadArgs {
    /// Where acknowledged heads are kept over restarts [default: headswap/heads in the user's data folder]
    #[arg(long, env = "HEADSWAP_HEADS_DIR", value_name = "DIR")]
    pub heads_dir: Option<PathBuf>,
    /// The folder that ReplaceHead's file:// URIs may name files in; without it, none
    #[arg(long, env = "HEADSWAP_HEAD_SOURCE_DIR", value_name = "DIR")]
    pub head_source_dir: Option<PathBuf>,
    /// Heads at most
    #[arg(long, env = "HEADSWAP_HEADS_MAX", default_value_t = 100_000)]
    pub heads_max: usize,
    /// Versions of a head that requests may name, the live one included
    #[arg(long, env = "HEADSWAP_HEAD_VERSIONS_KEPT", default_value_t = 2)]
    pub head_versions_kept: usize,
    /// Bytes of all heads in the store at most
    #[arg(long, env = "HEADSWAP_HEADS_BYTES_MAX", default_value_t = 64 << 30)]
    pub heads_bytes_max: u64,
    /// When heads of the store are brought to the device: the newest version of each at start, read in whole and as far
    /// as there is room, or each when it is first asked for
    #[arg(long, env = "HEADSWAP_HEADS_LOAD", value_enum, default_value = "eager")]
    pub heads_load: HeadsLoad,
    /// Bytes of heads on the device at most, counted in f32; the least recently used leave for others and are loaded again
    /// when asked for. Wants room for all that are asked for at the same time. Heads that are being swapped in are tried
    /// beside these, in as many bytes again and 64 MiB
    #[arg(long, env = "HEADSWAP_HEADS_RESIDENT_BYTES_MAX", default_value_t = 2 << 30)]
    pub heads_resident_bytes_max: u64,
    /// Bytes of heads kept in host memory, from where they come back faster than from the disk. Copies of what is on the
    /// device count, so it takes more than --heads-resident-bytes-max to be of use [default: twice that on a GPU; 0 on the
    /// CPU, where host memory is the device's]
    #[arg(long, env = "HEADSWAP_HEADS_WARM_BYTES_MAX", value_name = "BYTES")]
    pub heads_warm_bytes_max: Option<u64>,
    /// Heads loaded at the same time at most; others wait for their turn
    #[arg(long, env = "HEADSWAP_HEAD_LOADS_MAX", default_value_t = 4)]
    pub head_loads_max: usize,
}

impl HeadArgs {
    pub(super) fn check(&self, mistakes: &mut Vec<String>) {
        at_least_one("--heads-max", self.heads_max, mistakes);
        at_least_one("--head-versions-kept", self.head_versions_kept, mistakes);
        at_least_one("--head-loads-max", self.head_loads_max, mistakes);
        if let Some(dir) = self.head_source_dir.as_ref().filter(|dir| !dir.is_dir()) {
            let dir = dir.display();
            mistakes.push(format!(
                "--head-source-dir {dir} is not a directory; create it or drop the flag"
            ));
        }
        if self.dir().is_none() {
            mistakes.push("there is no home directory to keep heads in; set --heads-dir".to_owned());
        }
    }

    /// The directory of heads: as set, or under the user's data directory (XDG Base Directory Specification).
    pub(crate) fn dir(&self) -> Option<PathBuf> {
        if self.heads_dir.is_some() {
            return self.heads_dir.clone();
        }
        let data = match std::env::var_os("XDG_DATA_HOME").filter(|dir| !dir.is_empty()) {
            Some(dir) => PathBuf::from(dir),
            None => std::env::home_dir()?.join(".local/share"),
        };
        Some(data.join("headswap/heads"))
    }

    /// What bounds the registry of heads.
    pub(crate) fn registry(&self, on_cpu: bool) -> RegistryLimits {
        let resident_bytes_max = self.heads_resident_bytes_max;
        let warm_default = if on_cpu {
            0
        } else {
            resident_bytes_max.saturating_mul(2)
        };
        RegistryLimits {
            heads_max: self.heads_max,
            versions_kept: self.head_versions_kept,
            bytes_max: self.heads_bytes_max,
            eager: self.heads_load == HeadsLoad::Eager,
            residency: ResidencyLimits {
                resident_bytes_max,
                warm_bytes_max: self.heads_warm_bytes_max.unwrap_or(warm_default),
                loads_max: self.head_loads_max,
            },
        }
    }
}
