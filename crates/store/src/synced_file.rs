//! A file that is synced in regular intervals while it is written.

use std::fs::File;
use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use headswap_checkpoint::Throttle;

/// Bytes per write call.
const WRITE_BLOCK: usize = 256 << 10;

/// Bytes that may be in the page cache only. The fsync of a small file may have to wait for those of a large one, so their
/// number is limited.
const UNSYNCED_BYTES_MAX: usize = 8 << 20;

/// A writer that syncs after every [`UNSYNCED_BYTES_MAX`] bytes.
#[derive(Debug)]
pub(super) struct SyncedFile {
    file: File,
    unsynced_bytes: usize,
    sync_time: Duration,
    #[cfg(test)]
    syncs: usize,
}

impl SyncedFile {
    pub fn new(file: File) -> Self {
        Self {
            file,
            unsynced_bytes: 0,
            sync_time: Duration::ZERO,
            #[cfg(test)]
            syncs: 0,
        }
    }

    /// Appends bytes, pausing as `throttle` says.
    pub fn write(&mut self, bytes: &[u8], throttle: &Throttle) -> io::Result<()> {
        for block in bytes.chunks(WRITE_BLOCK) {
            self.file.write_all(block)?;
            self.unsynced_bytes += block.len();
            throttle.pause();
            if self.unsynced_bytes >= UNSYNCED_BYTES_MAX {
                self.sync(File::sync_data)?;
                throttle.restart();
            }
        }
        Ok(())
    }

    /// Waits until everything is on the disk. Returns the time that this file spent in fsync.
    pub fn finish(mut self) -> io::Result<Duration> {
        self.sync(File::sync_all)?;
        Ok(self.sync_time)
    }

    fn sync(&mut self, sync: fn(&File) -> io::Result<()>) -> io::Result<()> {
        let started = Instant::now();
        sync(&self.file)?;
        self.sync_time += started.elapsed();
        self.unsynced_bytes = 0;
        #[cfg(test)]
        {
            self.syncs += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_file_is_synced_in_pieces() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let mut file = SyncedFile::new(File::create(&path).unwrap());
        let bytes: Vec<u8> = (0..UNSYNCED_BYTES_MAX / 2 + 1).map(|at| (at % 251) as u8).collect();
        // Each write is a little more than half the limit, so every second one syncs.
        for (written, syncs) in [(1, 0), (2, 1), (3, 1), (4, 2)] {
            file.write(&bytes, &Throttle::off()).unwrap();
            assert_eq!((file.syncs, written), (syncs, written));
            assert!(file.unsynced_bytes < UNSYNCED_BYTES_MAX);
        }
        file.finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), bytes.repeat(4));
    }
}
