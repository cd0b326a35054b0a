//! Where heads are stored, and limits on them.

use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::{Args, ValueEnum};
use headswap_heads::{RegistryLimits, ResidencyLimits};

use super::at_least_one;

/// When stored heads are loaded onto the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum HeadsLoad {
    /// At start, until --heads-resident-bytes-max is reached.
    Eager,
    /// On the first request for the head.
    Lazy,
}

/// Where heads are stored, and limits on them.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Heads")]
pub struct HeadArgs {
    /// Directory in which acknowledged heads are stored [default: headswap/heads in the user's data directory]
    #[arg(long, env = "HEADSWAP_HEADS_DIR", value_name = "DIR")]
    pub heads_dir: Option<PathBuf>,
    /// Directory whose files ReplaceHead's file:// URIs may name. Without it, such URIs are refused
    #[arg(long, env = "HEADSWAP_HEAD_SOURCE_DIR", value_name = "DIR")]
    pub head_source_dir: Option<PathBuf>,
    /// Refuse new heads without a spec, instead of assuming the backbone's preprocessing and softmax for them
    #[arg(long, env = "HEADSWAP_REQUIRE_SPEC", value_parser = BoolishValueParser::new())]
    pub require_spec: bool,
    /// Limit on the number of heads
    #[arg(long, env = "HEADSWAP_HEADS_MAX", default_value_t = 100_000)]
    pub heads_max: usize,
    /// Number of versions kept of each head, including the live one. Requests may name any of them
    #[arg(long, env = "HEADSWAP_HEAD_VERSIONS_KEPT", default_value_t = 2)]
    pub head_versions_kept: usize,
    /// Limit on all stored heads together, in bytes
    #[arg(long, env = "HEADSWAP_HEADS_BYTES_MAX", default_value_t = 64 << 30)]
    pub heads_bytes_max: u64,
    /// When stored heads are loaded onto the device: the newest version of each head at start, or each version on its first
    /// request
    #[arg(long, env = "HEADSWAP_HEADS_LOAD", value_enum, default_value = "eager")]
    pub heads_load: HeadsLoad,
    /// Limit on heads on the device, in bytes, counted in f32. Above it, the least recently used heads are evicted, and loaded
    /// again on their next request. The limit should fit all heads that are requested at the same time. New heads are tried
    /// in a separate budget of as many bytes plus 64 MiB
    #[arg(long, env = "HEADSWAP_HEADS_RESIDENT_BYTES_MAX", default_value_t = 2 << 30)]
    pub heads_resident_bytes_max: u64,
    /// Limit on heads cached in host memory, in bytes. Loading them from there is faster than from the disk. Heads on the device
    /// count, too, so only a value above --heads-resident-bytes-max has an effect [default: twice that setting on a GPU; 0 on
    /// the CPU, which uses host memory anyway]
    #[arg(long, env = "HEADSWAP_HEADS_WARM_BYTES_MAX", value_name = "BYTES")]
    pub heads_warm_bytes_max: Option<u64>,
    /// Limit on concurrent loads of heads; further loads wait
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
                "--head-source-dir {dir} is not a directory; create it or remove the flag"
            ));
        }
        if self.dir().is_none() {
            mistakes.push("the user has no home directory to store heads in; set --heads-dir".to_owned());
        }
    }

    /// Returns the directory of heads: `--heads-dir`, or one in the user's data directory (XDG Base Directory Specification).
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

    /// Returns the limits of the registry of heads.
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
