//! Limits on requests, messages and memory.

use clap::Args;

use super::at_least_one;

/// Limits on requests, messages and memory.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// Size of the feature cache in bytes. It keeps the input of each head's own part: 16 kB a picture for a head that is the
    /// last Linear layer, 2 kB for one of each channel's mean, 100 kB for one of the 7x7 map. A cached picture costs only that
    /// part. 0 disables the cache
    #[arg(long, env = "HEADSWAP_FEATURE_CACHE_BYTES_MAX", default_value_t = 0)]
    pub feature_cache_bytes_max: u64,
    /// Limit on requests in flight, for unary calls and for requests of streams separately. Unary calls above it are refused
    /// with RESOURCE_EXHAUSTED; requests of streams wait
    #[arg(long, env = "HEADSWAP_IN_FLIGHT_MAX", default_value_t = 256)]
    pub in_flight_max: usize,
    /// Limit on requests in flight of one stream, including responses that the client has not read. Further requests wait in
    /// the client
    #[arg(long, env = "HEADSWAP_STREAM_IN_FLIGHT_MAX", default_value_t = 64)]
    pub stream_in_flight_max: usize,
    /// Limit on open calls on one connection, unary or streams. Further calls wait in the client
    #[arg(long, env = "HEADSWAP_STREAMS_PER_CONNECTION_MAX", default_value_t = 100)]
    pub streams_per_connection_max: u32,
    /// How long a message may stall while it arrives, or a ClassifyStream may make no progress, in milliseconds. After that the
    /// call fails with DEADLINE_EXCEEDED
    #[arg(long, env = "HEADSWAP_STREAM_IDLE_MS_MAX", default_value_t = 300_000)]
    pub stream_idle_ms_max: u64,
    /// Limit on a ClassifierService message in bytes, after decompression
    #[arg(long, env = "HEADSWAP_MESSAGE_BYTES_MAX", default_value_t = 32 << 20)]
    pub message_bytes_max: usize,
    /// Limit on a HeadAdminService message in bytes. UploadHead splits a file into many messages
    #[arg(long, env = "HEADSWAP_ADMIN_MESSAGE_BYTES_MAX", default_value_t = 1100 << 20)]
    pub admin_message_bytes_max: usize,
    /// Limit on a file that UploadHead sends or that ReplaceHead's `uri` names, in bytes
    #[arg(long, env = "HEADSWAP_UPLOAD_BYTES_MAX", default_value_t = 1_200_000_000)]
    pub upload_bytes_max: u64,
    /// Limit on concurrent uploads; further ones are refused with RESOURCE_EXHAUSTED. Also the limit on concurrent swaps of files
    /// above 8 MiB, uploaded or not
    #[arg(long, env = "HEADSWAP_UPLOADS_MAX", default_value_t = 4)]
    pub uploads_max: usize,
}

impl LimitArgs {
    pub(super) fn check(&self, mistakes: &mut Vec<String>) {
        at_least_one("--in-flight-max", self.in_flight_max, mistakes);
        at_least_one("--stream-in-flight-max", self.stream_in_flight_max, mistakes);
        at_least_one("--uploads-max", self.uploads_max, mistakes);
        at_least_one(
            "--streams-per-connection-max",
            self.streams_per_connection_max,
            mistakes,
        );
        at_least_one("--stream-idle-ms-max", self.stream_idle_ms_max, mistakes);
    }
}
