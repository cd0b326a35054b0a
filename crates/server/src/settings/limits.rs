//! What bounds requests, messages and memory.

use clap::Args;

use super::at_least_one;

/// What bounds requests, messages and memory.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// Bytes of features kept of pictures seen before, 16 kB each, so that one asked again costs the last Linear alone;
    /// 0 keeps none
    #[arg(long, env = "HEADSWAP_FEATURE_CACHE_BYTES_MAX", default_value_t = 0)]
    pub feature_cache_bytes_max: u64,
    /// Requests under way at most, unary calls and streams' requests counted apart: more unary calls are refused with
    /// RESOURCE_EXHAUSTED, streams wait
    #[arg(long, env = "HEADSWAP_IN_FLIGHT_MAX", default_value_t = 256)]
    pub in_flight_max: usize,
    /// Requests of one stream under way at most, answers that the client has not read included; more wait in the client
    #[arg(long, env = "HEADSWAP_STREAM_IN_FLIGHT_MAX", default_value_t = 64)]
    pub stream_in_flight_max: usize,
    /// Requests and streams open on one connection at most; more wait in the client
    #[arg(long, env = "HEADSWAP_STREAMS_PER_CONNECTION_MAX", default_value_t = 100)]
    pub streams_per_connection_max: u32,
    /// How long, in milliseconds, the message of a request may stall while it arrives, and nothing may move on a
    /// ClassifyStream; then it ends with DEADLINE_EXCEEDED
    #[arg(long, env = "HEADSWAP_STREAM_IDLE_MS_MAX", default_value_t = 300_000)]
    pub stream_idle_ms_max: u64,
    /// Bytes of a ClassifierService message at most, after decompression
    #[arg(long, env = "HEADSWAP_MESSAGE_BYTES_MAX", default_value_t = 32 << 20)]
    pub message_bytes_max: usize,
    /// Bytes of a HeadAdminService message at most; UploadHead sends a file in many
    #[arg(long, env = "HEADSWAP_ADMIN_MESSAGE_BYTES_MAX", default_value_t = 1100 << 20)]
    pub admin_message_bytes_max: usize,
    /// Bytes of a file that UploadHead sends or ReplaceHead's `uri` names, at most
    #[arg(long, env = "HEADSWAP_UPLOAD_BYTES_MAX", default_value_t = 1_200_000_000)]
    pub upload_bytes_max: u64,
    /// Uploads at the same time at most; more are refused with RESOURCE_EXHAUSTED. As many files above 8 MiB, uploaded or
    /// not, are swapped in at the same time
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
            self.streams_per_connection_max as usize,
            mistakes,
        );
        at_least_one(
            "--stream-idle-ms-max",
            usize::from(self.stream_idle_ms_max > 0),
            mistakes,
        );
    }
}
