//! Small heads swapped in one after the other, alone and while a large one is uploaded: for `headswap bench upload`.

use std::time::{Duration, Instant};

use headswap_client::Admin;
use headswap_loadtest::KnownHead;
use headswap_proto::ReplaceHeadRequest;
use headswap_proto::replace_head_request::Source;
use headswap_spec::Architecture;
use serde_json::{Value, json};

use super::legend::{BenchTable, Column};
use crate::commands::error::CliError;
use crate::commands::output::{ms, print_line};

/// Between two swaps.
const PAUSE: Duration = Duration::from_millis(5);

const COLUMNS: [Column; 6] = [
    ("small swaps", "without an upload, or while a large head is uploaded"),
    ("count", "how many there were, one after the other"),
    ("median", "median time of one"),
    ("median fsync", "median of the part that waited for the disk"),
    ("longest", "time of the longest"),
    ("longest's fsync", "the part of the longest that waited for the disk"),
];

/// Swaps of a head of ten classes.
#[derive(Debug, Default)]
pub(super) struct SmallSwaps {
    swaps: Vec<Swap>,
}

#[derive(Clone, Copy, Debug)]
struct Swap {
    latency: Duration,
    /// The part of it that waited for the disk.
    sync: Duration,
}

impl SmallSwaps {
    /// Swaps until `stop`, which is asked before each.
    pub async fn run(mut client: Admin, mut stop: impl FnMut() -> bool) -> Result<Self, CliError> {
        let heads = [1, 2].map(|seed| KnownHead::new(Architecture::Vgg16, 10, seed).safetensors());
        let [first, second] = heads;
        let heads = [bytes::Bytes::from(first?), bytes::Bytes::from(second?)];
        let mut swaps = Vec::new();
        while !stop() {
            let request = ReplaceHeadRequest {
                head: "small".into(),
                source: Some(Source::Safetensors(heads[swaps.len() % 2].clone())),
                ..ReplaceHeadRequest::default()
            };
            let began = Instant::now();
            let swapped = client.replace_head(request).await?.into_inner();
            swaps.push(Swap {
                latency: began.elapsed(),
                sync: Duration::from_micros(swapped.sync_us),
            });
            tokio::time::sleep(PAUSE).await;
        }
        Ok(Self { swaps })
    }

    pub fn count(&self) -> usize {
        self.swaps.len()
    }

    pub fn median(&self) -> Duration {
        let mut latencies: Vec<Duration> = self.swaps.iter().map(|swap| swap.latency).collect();
        latencies.sort_unstable();
        latencies.get(latencies.len() / 2).copied().unwrap_or_default()
    }

    fn median_sync(&self) -> Duration {
        let mut syncs: Vec<Duration> = self.swaps.iter().map(|swap| swap.sync).collect();
        syncs.sort_unstable();
        syncs.get(syncs.len() / 2).copied().unwrap_or_default()
    }

    /// The longest, and what of it was fsync.
    fn longest(&self) -> (Duration, Duration) {
        let longest = self.swaps.iter().max_by_key(|swap| swap.latency);
        longest.map(|swap| (swap.latency, swap.sync)).unwrap_or_default()
    }

    /// As a member of the benchmark's JSON.
    pub fn json(alone: &Self, beside: &Self, upload: Duration) -> Value {
        let (longest, longest_sync) = beside.longest();
        json!({
            "upload_seconds": upload.as_secs_f64(), "alone": alone.count(), "beside": beside.count(),
            "alone_median_ms": milliseconds(alone.median()), "alone_median_sync_ms": milliseconds(alone.median_sync()),
            "beside_median_ms": milliseconds(beside.median()), "beside_median_sync_ms": milliseconds(beside.median_sync()),
            "median_ratio": beside.median().as_secs_f64() / alone.median().as_secs_f64(),
            "longest_ms": milliseconds(longest), "longest_sync_ms": milliseconds(longest_sync),
            "longest_of_upload": longest.as_secs_f64() / upload.as_secs_f64(),
        })
    }

    /// The same for people.
    pub fn print(alone: &Self, beside: &Self, upload: Duration) -> Result<(), CliError> {
        let mut rows = BenchTable::new(&COLUMNS);
        for (kind, swaps) in [("alone", alone), ("beside an upload", beside)] {
            let (longest, longest_sync) = swaps.longest();
            rows.add([
                kind.to_owned(),
                swaps.count().to_string(),
                ms(swaps.median()),
                ms(swaps.median_sync()),
                ms(longest),
                ms(longest_sync),
            ]);
        }
        rows.print()?;
        let longest = beside.longest().0;
        print_line(format_args!(
            "\nmedian {:.2} times that alone; the longest took {:.3} of the upload's {:.1} s",
            beside.median().as_secs_f64() / alone.median().as_secs_f64(),
            longest.as_secs_f64() / upload.as_secs_f64(),
            upload.as_secs_f64()
        ))
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
